package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/event"
)

// remains are what a component leaves in the cluster when it goes, and how it is taken back.
type remains interface {
	// look finds out what is there.
	look(ctx context.Context) error
	any() bool
	String() string // in one line
	words() remainsWords
	// takeBack runs the component's own program, for the operation named. Whoever must not make anew what is taken back is kept from it first.
	takeBack(ctx context.Context, job agentJob, operation string) error
	// after is what is left to do when the component is gone, whether anything was taken back or not.
	after(ctx context.Context, observe event.Func) error
	// settle ends what takeBack began, when the component is gone.
	settle(ctx context.Context) error
}

// remainsWords are how remains are spoken of.
type remainsWords struct {
	program  agentProgram
	what     string // "what karpenops made"
	unknown  string // "whether karpenops left NodePools is not known"
	question string
	demand   string // what OPERATION does without it: "leaves to nobody"
	choices  string // the two, in a hint
	warning  event.Warning
	stays    string // what is the case when taking back went wrong
	resume   string // how the component works again as before
}

// keeper decides what becomes of what a component leaves when nobody is to tend it any more.
type keeper struct {
	revert, noRevert bool
	timeout          time.Duration
}

func (o *keeper) bind(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVar(&o.revert, "revert", false, "take back first what karpenops made and changed (its NodePools are drained within their disruption budgets and deleted), and what containerRightsizing changed of running pods (in place)")
	fs.BoolVar(&o.noRevert, "no-revert", false, "leave what they made and changed as it is, with nobody to tend it")
	fs.DurationVar(&o.timeout, "revert-timeout", time.Hour, "how long taking back may take")
}

func (o *keeper) check() error {
	if o.revert && o.noRevert {
		return usage("--revert and --no-revert exclude each other")
	}
	return nil
}

// leaving is what is done about remains.
type leaving struct {
	remains
	unknown  error // why it is not known what is there
	reverts  bool
	reverted bool
}

// find looks at what is there.
func (o *keeper) find(ctx context.Context, r remains) (*leaving, error) {
	l := &leaving{remains: r}
	l.unknown = r.look(ctx)
	if l.unknown != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return l, nil
}

// there says whether something is known to be.
func (l *leaving) there() bool { return l.unknown == nil && l.any() }

// say tells it before the question.
func (l *leaving) say(f *Factory) {
	switch {
	case l.unknown != nil:
		fmt.Fprintf(f.IO.ErrOut, "  %-10s %s: %s\n", "leaves", l.words().unknown, oneLine(l.unknown))
	case l.any():
		fmt.Fprintf(f.IO.ErrOut, "  %-10s %s\n", "leaves", l)
	}
}

// choose asks, or demands, a decision. Whoever is not there to be asked has to have decided: to take it back and to leave it to nobody are both too much to guess.
func (o *keeper) choose(ctx context.Context, f *Factory, l *leaving, yes bool, operation string) error {
	switch {
	case o.revert:
		l.reverts = l.any() || l.unknown != nil
		return nil
	case o.noRevert || l.unknown == nil && !l.any():
		return nil
	case yes || !f.IO.CanPrompt():
		what := l.words().demand + " " + l.String()
		if l.unknown != nil {
			what = "may leave something to nobody: " + l.words().unknown + ": " + oneLine(l.unknown)
		}
		return usageHint(l.words().choices, "%s %s", operation, what)
	}
	for {
		answer, err := f.IO.Ask(ctx, l.words().question+" [Y/n] ")
		if err != nil {
			return &failure{class: "cancelled", reason: "not confirmed: nothing was changed", err: ctx.Err()}
		}
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "", "y", "yes":
			l.reverts = true
			return nil
		case "n", "no":
			return nil
		}
	}
}

// leave reverts what is to be reverted, before the component goes, and warns of what stays.
func (o *keeper) leave(ctx context.Context, l *leaving, operation string, observe event.Func) error {
	if !l.reverts {
		if l.any() || l.unknown != nil {
			w, what := l.words().warning, l.String()
			if l.unknown != nil {
				what = l.words().what + ", if anything"
			}
			w.Message += what
			observe.Emit(w)
		}
		return nil
	}
	var said []string
	job := agentJob{program: l.words().program, patience: o.timeout, observe: observe, line: func(line string) { said = append(said, line) }, log: func(string) {}}
	err := l.takeBack(ctx, job, operation)
	if len(said) > 0 {
		observe.Emit(event.Evidence{Object: job.program.command + " revert", Source: "log", Text: strings.Join(said, "\n")})
	}
	if err == nil {
		l.reverted = true
		return nil
	}
	class := ""
	if errors.Is(ctx.Err(), context.Canceled) {
		class = "cancelled"
	}
	return &failure{class: class, reason: l.words().stays, err: err, advice: "nopsctl " + operation + " --revert goes on; " + l.words().resume}
}

// gone does what is left to do, and ends what leave began.
func (l *leaving) gone(ctx context.Context, observe event.Func) error {
	err := l.after(ctx, observe)
	if l.reverted {
		err = errors.Join(err, l.settle(ctx))
	}
	return err
}

// What is left with nobody to tend it.
const (
	warnLeftovers = "NOPS-CLI-002" // of karpenops
	warnSized     = "NOPS-CLI-003" // of containerRightsizing
)

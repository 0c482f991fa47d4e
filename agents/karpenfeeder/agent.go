package karpenfeeder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Feeder asks AWS and writes the documents.
type Feeder struct {
	Options Options
	AWS     *AWS
	Sink    Sink
	Now     func() time.Time
	Log     *slog.Logger
}

// Once makes both documents and writes them. The market is worth having without the commitments, and the other way round: what fails is
// said, and the other is written. The error is of what failed.
func (f *Feeder) Once(ctx context.Context) error {
	m, err := f.Sink.Load(ctx)
	if err != nil {
		return err
	}
	now := f.Now()
	// The clock keeps the numbers rising when the memory was deleted: karpenops takes a lower one for a replay.
	m.Seq = max(m.Seq+1, uint64(max(now.Unix(), 0)))
	var market, commitments []byte
	answers, problems, wrong := f.AWS.Market(ctx, f.Options, now, m)
	f.say(ctx, problems)
	if wrong == nil {
		doc, problems := answers.Market(m.Seq, f.Options.ValidFor)
		f.say(ctx, problems)
		market, wrong = checked(doc, doc.Validate())
	}
	held, problems, failed := f.AWS.Holdings(ctx, f.Options, now, answers.Types)
	f.say(ctx, problems)
	if failed == nil {
		doc, sample, problems := held.Commitments(m.Seq, f.Options.ValidFor, Share{Part: f.Options.Share, Until: f.Options.lease(now)}, m.Samples)
		f.say(ctx, problems)
		m.remember(sample, f.Options.Window)
		commitments, failed = checked(doc, doc.Validate())
	}
	if market != nil || commitments != nil {
		if err := f.Sink.Store(ctx, market, commitments, m); err != nil {
			return errors.Join(wrong, failed, err)
		}
		f.Log.LogAttrs(ctx, slog.LevelInfo, "written", slog.String("to", f.Options.To), slog.Uint64("seq", m.Seq), slog.Bool("market", market != nil), slog.Bool("commitments", commitments != nil))
	}
	return errors.Join(wrong, failed)
}

// checked holds a document against what karpenops will: what it would refuse is not written over what it accepted.
func checked(doc any, err error) ([]byte, error) {
	if err != nil {
		return nil, fmt.Errorf("what came out is not what the contract allows: %w", err)
	}
	text, err := json.Marshal(doc)
	if err == nil && len(text) > nopsapi.MaxMarket {
		err = fmt.Errorf("%d bytes of at most %d: name fewer --families", len(text), nopsapi.MaxMarket)
	}
	if err != nil {
		return nil, fmt.Errorf("the document: %w", err)
	}
	return text, nil
}

func (f *Feeder) say(ctx context.Context, problems []string) {
	for _, p := range problems {
		f.Log.LogAttrs(ctx, slog.LevelWarn, "left out", slog.String("why", p))
	}
}

// Run repeats until the context ends. A run that fails is said and tried again at the next turn: the documents carry their own end.
func (f *Feeder) Run(ctx context.Context) error {
	for {
		err := f.Once(ctx)
		if f.Options.Every == 0 {
			return err
		}
		if err != nil && ctx.Err() == nil {
			f.Log.LogAttrs(ctx, slog.LevelError, "run failed", slog.Any("error", err))
		}
		if err := agent.Sleep(ctx, f.Options.Every); err != nil {
			return nil //nolint:nilerr // asked to end
		}
	}
}

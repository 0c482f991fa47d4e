package write

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// noCapacity has Karpenter fail three launches of a NodePool.
func (w *world) noCapacity(pool string) {
	w.Helper()
	for i := range 3 {
		w.says("NodeClaim", fmt.Sprintf("%s-%caaaa", pool, 'a'+i), "InsufficientCapacityError", "no capacity")
	}
}

// codes are those of findings, each with its object.
func codes(s Settled) []string {
	var all []string
	for _, f := range s.Findings {
		all = append(all, f.Code+" "+f.Object)
	}
	return all
}

// testIll: what did harm is undone in a freeze as well, whatever undoes it, and what cannot be undone is said to stand.
func testIll(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	w.do(w.sibling("base-nops", "base", 20))
	w.noCapacity("base-nops")
	if err := w.Pause(w.ctx, "", "ann", "incident"); err != nil {
		w.Fatal(err)
	}
	if s := w.settle(); !slices.Equal(codes(s), []string{CodeIll + " NodePool/base-nops"}) || !strings.Contains(s.Findings[0].Message, "no capacity: 3 launches failed") || !strings.Contains(s.Findings[0].Message, "paused by ann: incident") {
		w.Errorf("while it waits: %+v", s)
	}
	if _, err := w.Resume(w.ctx, ""); err != nil {
		w.Fatal(err)
	}
	w.edit("kubectl-annotate", "base", `{"metadata":{"annotations":{"karpenops.nops.io/freeze":"* * * * * 1h"}}}`)
	s := w.settle()
	if s.Watching != 0 || !drained(w.pool("base-nops")) || len(s.Findings) != 0 {
		w.Errorf("in a freeze: %+v: %s", s, spec(w.pool("base-nops")))
	}
	if diff := cmp.Diff([]string{"create-sibling undone", "undo undone"}, w.outcomes("NodePool/base-nops")); diff != "" {
		w.Errorf("ledger (-want +got):\n%s", diff)
	}
	if got := w.events("base-nops"); !slices.Contains(got, "KarpenopsUndone") {
		w.Errorf("events: %v", got)
	}

	// A sibling that a tool took over meanwhile is nothing to write to.
	w.clear()
	w.make("kubectl-create", w.userPool("base"))
	w.do(w.sibling("base-nops", "base", 20))
	w.edit("kubectl-label", "base-nops", `{"metadata":{"labels":{"argocd.argoproj.io/instance":"pools"}}}`)
	w.noCapacity("base-nops")
	logged := len(w.logs.String())
	s = w.settle()
	if !slices.Equal(codes(s), []string{CodeIll + " NodePool/base-nops"}) || !strings.Contains(s.Findings[0].Message, "argocd.argoproj.io/instance") || !strings.Contains(s.Findings[0].Message, "nopsctl karpenops revert base-nops") {
		w.Errorf("findings: %+v", s.Findings)
	}
	if diff := cmp.Diff([]string{"create-sibling applied", "undo refused"}, w.outcomes("NodePool/base-nops")); diff != "" {
		w.Errorf("ledger (-want +got):\n%s", diff)
	}
	if got := w.events("base-nops"); !slices.Contains(got, "KarpenopsNotUndone") || slices.Contains(got, "KarpenopsUndone") {
		w.Errorf("events: %v", got)
	}
	if log := w.logs.String()[logged:]; !strings.Contains(log, "could not be undone") || strings.Contains(log, "is undone") || strings.Contains(log, "was undone") {
		w.Errorf("log:\n%s", log)
	}
	if s := w.settle(); len(s.Findings) != 1 {
		w.Errorf("it stands still, and is said no more: %+v", s)
	}
	r, err := w.Resume(w.ctx, "base")
	if want := (Resumed{Cooldown: []string{"base", "base-nops"}, Ill: []string{"NodePool/base-nops"}}); err != nil || !cmp.Equal(r, want) {
		w.Errorf("%+v, %v; want %+v", r, err, want)
	}
	if s := w.settle(); len(s.Findings) != 0 {
		w.Errorf("somebody said that it is right: %+v", s)
	}
}

// testDeletedAgain: a sibling that somebody deletes whenever it is made is let go of by the name of its base, and by its own, though it is gone.
func testDeletedAgain(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	for _, name := range []string{"base", "base-nops"} {
		for range 2 {
			w.do(w.sibling("base-nops", "base", 20))
			if _, err := w.call(w.ctx, http.MethodDelete, poolsPath+"/base-nops", "", nil); err != nil {
				w.Fatal(err)
			}
			w.settle()
		}
		s := w.settle()
		if len(s.Findings) != 1 || !strings.HasPrefix(s.Findings[0].Message, "somebody deletes NodePool/base-nops whenever karpenops makes it, so") {
			w.Errorf("%+v", s.Findings)
		}
		w.refused(Fighting, w.sibling("base-nops", "base", 20))
		r, err := w.Resume(w.ctx, name)
		if want := (Resumed{Fights: []string{"NodePool/base-nops"}}); err != nil || !cmp.Equal(r, want) {
			w.Errorf("%s: %+v, %v; want %+v", name, r, err, want)
		}
		if s := w.settle(); len(s.Findings) != 0 {
			w.Errorf("%s: %+v", name, s.Findings)
		}
	}
	if r, err := w.Resume(w.ctx, "no-such"); !errors.Is(err, ErrNoSuchPool) {
		w.Errorf("%+v, %v", r, err)
	}
}

// testAhead: a process whose clock was a year ahead was killed amid a write. Nobody waits a year for it.
func testAhead(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	const year = 365 * 24 * time.Hour
	w.clock.pass(year)
	w.do(w.sibling("base-spot", "base", 20))
	config := rest.CopyConfig(w.config)
	config.WrapTransport = func(rt http.RoundTripper) http.RoundTripper {
		return &cut{RoundTripper: rt, after: true, match: func(r *http.Request, _ string) bool {
			return r.Method == http.MethodPost && r.URL.Path == poolsPath && r.URL.Query().Get("dryRun") == ""
		}}
	}
	limits := w.Limits
	limits.Mode = karpenstate.ModeInPlace
	if err := w.mutate(w.ctx, func(st *state) error { st.journal.Watches = nil; return nil }); err != nil { // one NodePool at a time
		w.Fatal(err)
	}
	if r, err := w.writer(config, limits).Apply(w.ctx, w.sibling("base-commit", "base", 30), Meta{}); err == nil {
		w.Fatalf("%+v", r)
	}
	w.clock.pass(-year)
	if st := w.state(); len(st.journal.Intents) != 1 {
		w.Fatalf("intents: %+v", st.journal.Intents)
	}
	job := w.writer(w.config, limits)
	job.Limits.DrainGrace = 2 * time.Second
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Minute)
	defer cancel()
	r, err := job.Revert(ctx, Selection{All: true}, "ann", nil)
	if err != nil || !slices.Equal(slices.Sorted(slices.Values(r.Deleted)), []string{"NodePool/base-commit", "NodePool/base-spot"}) {
		w.Errorf("%+v, %v", r, err)
	}
	if got := w.outcomes("NodePool/base-commit"); !slices.Contains(got, "create-sibling applied") {
		w.Errorf("what was made and not recorded: %v", got)
	}
}

// TestClamp: what a clock that was ahead wrote is taken for now, and what is near enough stays.
func TestClamp(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	l := Limits{}.withDefaults()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for _, tt := range []struct {
		name           string
		d, last, cools time.Duration // when it was written, and what that becomes
		some           bool
	}{
		{"an hour ago", -time.Hour, -time.Hour, -time.Hour, false},
		{"clocks differ", 30 * time.Second, 30 * time.Second, 30 * time.Second, false},
		{"an hour ahead", time.Hour, 0, time.Hour, true},
		{"a year ahead", 365 * 24 * time.Hour, 0, longestCooldown, true},
	} {
		j := Journal{
			Last: map[string]int64{"p": at(tt.d)}, Cooldown: map[string]int64{"p": at(tt.d)}, Reverts: map[string][]int64{"p": {at(tt.d)}}, Tokens: Tokens{Used: 10, At: at(tt.d)},
			Watches: []Attempt{{At: now.Add(tt.d), Until: now.Add(tt.d + l.Window)}},
		}
		some := j.clamp(now, l)
		if a := j.Watches[0]; some != tt.some || j.Last["p"] != at(tt.last) || j.Cooldown["p"] != at(tt.cools) || j.Reverts["p"][0] != at(tt.last) || j.Tokens.At != at(tt.last) || !a.At.Equal(now.Add(tt.last)) || !a.Until.Equal(now.Add(tt.last+l.Window)) {
			t.Errorf("%s: %v %+v", tt.name, some, j)
		}
	}
}

// TestClaimOf: the API server cuts what does not fit, as it does for Karpenter.
func TestClaimOf(t *testing.T) {
	long := strings.Repeat("p", 60)
	claims := map[string][]map[string]any{
		"other": {object(t, `{"metadata":{"name":"spot-taken","uid":"u"}}`)},
		"spot":  {object(t, `{"metadata":{"name":"spot-there","uid":"u"}}`)},
	}
	c := &cluster{claims: claims, pools: map[string]map[string]any{"spot": nil, "spot-other": nil, long: nil}}
	for _, tt := range []struct {
		name, uid, pool string
		want            bool
	}{
		{"spot-abcde", "u", "spot", true},
		{"spot-abcd", "u", "spot", false}, // five letters
		{"spot-two-abcde", "u", "spot", false},
		{"spot-other", "u", "spot", false}, // a NodePool
		{"spot-taken", "u", "spot", false}, // of another
		{"spot-there", "u", "spot", true},
		{"spot-there", "v", "spot", false}, // one that was there before
		{long[:58] + "abcde", "u", long, true},
		{long[:57] + "abcde", "u", long, false},
		{strings.Repeat("q", 57) + "-abcde", "u", strings.Repeat("q", 57), true},
		{strings.Repeat("q", 58) + "abcde", "u", strings.Repeat("q", 58), true},
	} {
		if got := claimOf(tt.name, tt.uid, tt.pool, c); got != tt.want {
			t.Errorf("%s of %s: %v", tt.name, tt.pool, got)
		}
	}
}

// testAstray: a sibling whose label somebody took away is named, with what to do, and is ours again when it has the label again.
func testAstray(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	w.do(w.sibling("base-nops", "base", 20))
	w.edit("kubectl-label", "base-nops", `{"metadata":{"labels":{"karpenops.nops.io/owned":null}}}`)
	w.clock.pass(time.Hour)
	var said []string
	r, err := w.Revert(w.ctx, Selection{All: true}, "ann", func(line string) { said = append(said, line) })
	if err != nil || !cmp.Equal(r.Released, []string{"NodePool/base-nops"}) || len(r.Deleted) != 0 {
		w.Errorf("%+v, %v", r, err)
	}
	if text := strings.Join(said, "\n"); !strings.Contains(text, "NodePool/base-nops: left alone: it does not have the label") || !strings.Contains(text, "kubectl label nodepool base-nops karpenops.nops.io/owned=true, and revert again") ||
		!strings.Contains(text, "kubectl patch nodepool base-nops") {
		w.Errorf("said:\n%s", text)
	}
	// By its base, and where the annotation is gone as well, by the journal.
	w.edit("kubectl-annotate", "base-nops", `{"metadata":{"annotations":{"karpenops.nops.io/base":null}}}`)
	if r, err = w.Revert(w.ctx, Selection{Pools: []string{"base-nops"}}, "ann", nil); err != nil || !cmp.Equal(r.Released, []string{"NodePool/base-nops"}) {
		w.Errorf("%+v, %v", r, err)
	}
	w.clear()
	w.make("kubectl-create", w.userPool("base"))
	w.do(w.sibling("base-nops", "base", 20))
	w.edit("kubectl-label", "base-nops", `{"metadata":{"labels":{"karpenops.nops.io/owned":null}}}`)
	w.edit("kubectl-label", "base-nops", `{"metadata":{"labels":{"karpenops.nops.io/owned":"true"}}}`)
	job := w.writer(w.config, w.Limits)
	job.Limits.DrainGrace = time.Nanosecond
	if r, err = job.Revert(w.ctx, Selection{Pools: []string{"base"}}, "ann", nil); err != nil || !cmp.Equal(r.Deleted, []string{"NodePool/base-nops"}) {
		w.Errorf("with the label again: %+v, %v", r, err)
	}
}

// testSlip: who mistypes a name pauses nothing.
func testSlip(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	w.do(w.sibling("base-nops", "base", 20))
	for _, names := range [][]string{{"bsae"}, {"base", "bsae"}} {
		r, err := w.Revert(w.ctx, Selection{Pools: names}, "ann", nil)
		if !errors.Is(err, ErrNoSuchPool) || !strings.Contains(err.Error(), `"bsae"; there are base, base-nops`) || len(r.Records) != 0 {
			w.Errorf("%v: %+v, %v", names, r, err)
		}
	}
	if why := pausedBy(w.state().meta, "karpenops"); why != "" || drained(w.pool("base-nops")) {
		w.Errorf("paused: %q; %s", why, spec(w.pool("base-nops")))
	}
	// The base may be gone: its siblings are there.
	if _, err := w.call(w.ctx, http.MethodDelete, poolsPath+"/base", "", nil); err != nil {
		w.Fatal(err)
	}
	job := w.writer(w.config, w.Limits)
	job.Limits.DrainGrace = time.Nanosecond
	if r, err := job.Revert(w.ctx, Selection{Pools: []string{"base"}}, "ann", nil); err != nil || !cmp.Equal(r.Deleted, []string{"NodePool/base-nops"}) {
		w.Errorf("%+v, %v", r, err)
	}
}

// testHeld: what keeps nodes is said in Karpenter's words, while it waits and when the time is up.
func testHeld(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	w.do(w.sibling("base-nops", "base", 20))
	w.ready("base-nops", 2)
	w.claim("base-nops-aaaaa", "base-nops")
	w.claim("base-nops-bbbbb", "base-nops")
	w.status(claimsPath+"/base-nops-bbbbb", `{"status":{"nodeName":"node-b"}}`)
	w.says("NodeClaim", "base-nops-aaaaa", "DisruptionBlocked", `PDB "shop/web" prevents pod evictions`)
	w.says("Node", "node-b", "FailedDraining", "Failed to drain node, 1 pods are waiting to be evicted")
	w.says("NodeClaim", "base-aaaaa", "DisruptionBlocked", `of a node of another's`)
	w.saysAs("kubectl", "default", "uid", "NodeClaim", "base-nops-aaaaa", "DisruptionBlocked", `a lie`)
	var said []string
	short, say := w.untilSaid(&said, "NodePool/base-nops: waits for")
	_, err := w.Revert(short, Selection{All: true}, "ann", say)
	want := `Karpenter says of base-nops-aaaaa: PDB "shop/web" prevents pod evictions; of base-nops-bbbbb: Failed to drain node, 1 pods are waiting to be evicted`
	if err == nil || !strings.Contains(err.Error(), "base-nops ("+want+")") {
		w.Errorf("when the time is up: %v", err)
	}
	if text := strings.Join(said, "\n"); !strings.Contains(text, "waits for 2 NodeClaims to go, of which 0 are on their way out; "+want) || strings.Contains(text, "another's") || strings.Contains(text, "a lie") {
		w.Errorf("said:\n%s", text)
	}
	// What it said long ago holds no more.
	w.clock.pass(blockedFor + time.Minute)
	said = nil
	short, say = w.untilSaid(&said, "NodePool/base-nops: waits for")
	if _, err := w.Revert(short, Selection{All: true}, "ann", say); err == nil || strings.Contains(err.Error(), "PDB") {
		w.Errorf("later: %v", err)
	}
}

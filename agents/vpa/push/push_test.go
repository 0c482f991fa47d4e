package push

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

func TestMerge(t *testing.T) {
	const mi = 1 << 20
	local := Bounds{100 * mi, 200 * mi, 400 * mi}
	cases := []struct {
		name, reason string
		in           Inputs
		want         Bounds
		rules        string
	}{
		{"local alone", "without a platform the local model holds", Inputs{Resource: "memory", Local: local}, local, ""},
		{"platform above", "it knows weeks", Inputs{Resource: "memory", Local: local, Platform: Bounds{250 * mi, 300 * mi, 350 * mi}}, Bounds{250 * mi, 300 * mi, 350 * mi}, "platform"},
		{"platform below the local target", "above the local lower bound it is believed: that is what saves", Inputs{Resource: "memory", Local: local, Platform: Bounds{120 * mi, 150 * mi, 180 * mi}}, Bounds{120 * mi, 150 * mi, 180 * mi}, "platform"},
		{"platform below the local lower bound", "what happened just now counts", Inputs{Resource: "memory", Local: local, Platform: Bounds{20 * mi, 50 * mi, 60 * mi}}, Bounds{100 * mi, 100 * mi, 100 * mi}, "platform,platform"},
		{"platform without bounds", "the local ones enclose it", Inputs{Resource: "memory", Local: local, Platform: Bounds{Target: 300 * mi}}, Bounds{100 * mi, 300 * mi, 400 * mi}, "platform"},
		{"platform without bounds above all", "", Inputs{Resource: "memory", Local: local, Platform: Bounds{Target: 500 * mi}}, Bounds{100 * mi, 500 * mi, 500 * mi}, "platform"},
		{"out of memory", "a percentile may leave one replica out, the kernel did not", Inputs{Resource: "memory", Local: local, OOM: 600 * mi}, Bounds{600 * mi, 600 * mi, 600 * mi}, "oom"},
		{"out of memory with less than is given", "nothing is to be done", Inputs{Resource: "memory", Local: local, OOM: 150 * mi}, Bounds{150 * mi, 200 * mi, 400 * mi}, ""},
		{"all three", "the largest holds", Inputs{Resource: "memory", Local: local, Platform: Bounds{250 * mi, 300 * mi, 350 * mi}, OOM: 320 * mi}, Bounds{320 * mi, 320 * mi, 350 * mi}, "platform,oom"},
		{"platform below what was used", "weeks of less do not help a pod that needs it now", Inputs{Resource: "memory", Local: local, Platform: Bounds{120 * mi, 150 * mi, 180 * mi}, Peak: 190 * mi}, Bounds{120 * mi, 190 * mi, 190 * mi}, "platform,platform"},
		{"platform below what was used once", "what the level leaves out it may leave out", Inputs{Resource: "memory", Local: local, Platform: Bounds{120 * mi, 150 * mi, 180 * mi}, Peak: 900 * mi}, Bounds{120 * mi, 200 * mi, 200 * mi}, "platform,platform"},
		{"platform above what was used", "the margin is what it saves", Inputs{Resource: "memory", Local: local, Platform: Bounds{120 * mi, 150 * mi, 180 * mi}, Peak: 150 * mi}, Bounds{120 * mi, 150 * mi, 180 * mi}, "platform"},
		{"what was used without a platform", "the level is all there is", Inputs{Resource: "memory", Local: local, Peak: 900 * mi}, local, ""},
		{"cpu", "in millicores", Inputs{Resource: "cpu", Local: Bounds{50, 100, 200}, Platform: Bounds{Target: 60}}, Bounds{50, 60, 200}, "platform"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, steps := Merge(c.in)
			var rules []string
			for _, s := range steps {
				rules = append(rules, s.Rule)
				if s.Why == "" || s.To.IsZero() {
					t.Errorf("a step that says nothing: %+v", s)
				}
			}
			if got != c.want || strings.Join(rules, ",") != c.rules {
				t.Errorf("%+v by %v, want %+v by %s; %s", got, rules, c.want, c.rules, c.reason)
			}
		})
	}
}

// TestMergeIsTheMaximum holds the rule for all numbers, and that bounds enclose the target.
func TestMergeIsTheMaximum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Int64Range(0, 1<<40)
		bounds := func(name string) Bounds {
			l := number.Draw(t, name+" lower")
			target := l + number.Draw(t, name+" target")
			return Bounds{l, target, target + number.Draw(t, name+" upper")}
		}
		in := Inputs{Resource: "memory", Local: bounds("local"), OOM: number.Draw(t, "oom"), Peak: number.Draw(t, "peak")}
		want := max(in.Local.Target, in.OOM)
		if rapid.Bool().Draw(t, "platform") {
			in.Platform = bounds("platform")
			if rapid.Bool().Draw(t, "bare") {
				in.Platform.Lower, in.Platform.Upper = 0, 0
			}
			if in.Platform.Target > 0 {
				want = max(in.Platform.Target, in.Local.Lower, min(in.Peak, in.Local.Target), in.OOM)
			}
		}
		got, steps := Merge(in)
		if got.Target != want || got.Lower > got.Target || got.Upper < got.Target {
			t.Fatalf("%+v of %+v, want target %d", got, in, want)
		}
		if len(steps) > 0 {
			if to := steps[len(steps)-1].To; to.Value() != got.Target {
				t.Fatalf("the last step ends at %s, the target is %d", to.String(), got.Target)
			}
		} else if got.Target != in.Local.Target {
			t.Fatalf("nobody says why %d became %d", in.Local.Target, got.Target)
		}
	})
}

var (
	start = time.Date(2026, 11, 28, 1, 0, 0, 0, time.UTC)
	web   = nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}
)

// fake is a platform of which tests say what it answers.
type fake struct {
	answer  func(etag string) (nopsclient.Polled[nopsapi.Recommendations], error)
	etags   []string
	lists   []nopsapi.RightsizedWorkloads
	sent    []nopsapi.Outcomes
	nextErr error
}

func (f *fake) Recommendations(_ context.Context, _, etag string) (nopsclient.Polled[nopsapi.Recommendations], error) {
	f.etags = append(f.etags, etag)
	return f.answer(etag)
}

func (f *fake) ReportWorkloads(_ context.Context, _ string, all nopsapi.RightsizedWorkloads) error {
	if err := f.nextErr; err != nil {
		f.nextErr = nil
		return err
	}
	f.lists = append(f.lists, all)
	return nil
}

func (f *fake) SendOutcomes(_ context.Context, _ string, some nopsapi.Outcomes) error {
	if err := f.nextErr; err != nil {
		f.nextErr = nil
		return err
	}
	f.sent = append(f.sent, some)
	return nil
}

func document(seq uint64, asOf time.Time, cpu float64) nopsapi.Recommendations {
	return nopsapi.Recommendations{
		FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: seq, AsOf: asOf, ValidUntil: asOf.Add(6 * time.Hour)},
		Workloads: []nopsapi.WorkloadRecommendation{{WorkloadRef: web, Level: "BalancedSavings", Containers: []nopsapi.ContainerRecommendation{
			{Name: "app", CPU: nopsapi.Recommended{Target: cpu}, Memory: nopsapi.Recommended{Target: 1 << 28}, Days: 14, Samples: 20160},
		}}},
	}
}

func polled(doc nopsapi.Recommendations) (nopsclient.Polled[nopsapi.Recommendations], error) {
	return nopsclient.Polled[nopsapi.Recommendations]{Message: doc, ETag: fmt.Sprintf("%d", doc.Seq)}, nil
}

// TestIntake: what is not valid changes nothing, what is valid holds to its end, and not a moment longer.
func TestIntake(t *testing.T) {
	good := document(7, start.Add(-time.Hour), 0.5)
	refusal := func(kind nopsclient.Kind) error { return &nopsclient.Error{Kind: kind, Message: string(kind)} }
	edited := func(seq uint64, edit func(*nopsapi.Recommendations)) nopsapi.Recommendations {
		d := document(seq, start, 0.5)
		edit(&d)
		return d
	}
	cases := []struct {
		name, reason string
		doc          nopsapi.Recommendations
		err          error
		seq          uint64 // what is in force after it
		refused      int
		says         string // in the problem
	}{
		{"newer", "it replaces the one before", document(8, start, 0.6), nil, 8, 0, ""},
		{"the same", "it is no replay", good, nil, 7, 0, ""},
		{"replayed", "an old number", document(6, start, 0.1), nil, 7, 1, "a replay"},
		{"the number of another", "two documents of one number", document(7, start, 0.1), nil, 7, 1, "that of another document"},
		{"older under a newer number", "somebody counts, and has an old document", document(8, start.Add(-2*time.Hour), 0.1), nil, 7, 1, "before that of seq 7"},
		{"stale", "its end has passed", document(8, start.Add(-7*time.Hour), 0.1), nil, 7, 1, "has passed"},
		{"of the future", "", document(8, start.Add(time.Hour), 0.1), nil, 7, 1, "in the future"},
		{"too new", "it would be misread", edited(8, func(d *nopsapi.Recommendations) { d.SchemaVersion = 2 }), nil, 7, 1, "schema_version 2"},
		{"valid for a month", "it would freeze what it says through a month of silence", edited(8, func(d *nopsapi.Recommendations) { d.ValidUntil = d.AsOf.Add(30 * 24 * time.Hour) }), nil, 7, 1, "at most"},
		{"negative", "one wrong number makes all of it unusable", edited(8, func(d *nopsapi.Recommendations) { d.Workloads[0].Containers[0].CPU.Target = -1 }), nil, 7, 1, "cpu"},
		{"in bytes for cores", "a slip of units", edited(8, func(d *nopsapi.Recommendations) { d.Workloads[0].Containers[0].CPU.Target = 5e8 }), nil, 7, 1, "cpu"},
		{"outside its bounds", "", edited(8, func(d *nopsapi.Recommendations) { d.Workloads[0].Containers[0].Memory.Upper = 1 }), nil, 7, 1, "bounds"},
		{"twice", "which of the two", edited(8, func(d *nopsapi.Recommendations) { d.Workloads = append(d.Workloads, d.Workloads[0]) }), nil, 7, 1, "twice"},
		{"garbage", "no document at all", nopsapi.Recommendations{}, refusal(nopsclient.KindProtocol), 7, 1, "protocol"},
		{"down", "the last one holds", nopsapi.Recommendations{}, refusal(nopsclient.KindServer), 7, 0, "could not be asked"},
		{"not offered any more", "the last one holds to its end", nopsapi.Recommendations{}, refusal(nopsclient.KindNotFound), 7, 0, "offers no"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now := start
			p := &fake{answer: func(string) (nopsclient.Polled[nopsapi.Recommendations], error) { return polled(good) }}
			i := NewIntake(Deps{Platform: p, ARN: "arn", Now: func() time.Time { return now }})
			if a := i.For(web, "BalancedSavings", now); a.Recommendation != nil || a.Reason != ReasonWaiting {
				t.Fatalf("before it asked: %+v", a)
			}
			if _, fresh, err := i.Ask(t.Context()); err != nil || !fresh {
				t.Fatalf("the first: fresh %v, %v", fresh, err)
			}
			p.answer = func(string) (nopsclient.Polled[nopsapi.Recommendations], error) {
				if c.err != nil {
					return nopsclient.Polled[nopsapi.Recommendations]{}, c.err
				}
				return polled(c.doc)
			}
			_, fresh, _ := i.Ask(t.Context())
			a := i.For(web, "BalancedSavings", now)
			if a.Recommendation == nil || a.Seq != c.seq || a.Reason != ReasonInForce || SeqOf(a.Message) != c.seq || fresh != (c.seq != 7) || i.Counts().Refused != c.refused {
				t.Errorf("%+v, fresh %v, %+v; %s", a, fresh, i.Counts(), c.reason)
			}
			if !strings.Contains(i.problem, c.says) || (c.says == "") != (i.problem == "") {
				t.Errorf("it says %q, want %q", i.problem, c.says)
			}
			// What was refused is asked for whole again.
			p.answer = func(string) (nopsclient.Polled[nopsapi.Recommendations], error) {
				return nopsclient.Polled[nopsapi.Recommendations]{Unchanged: true}, nil
			}
			if _, _, err := i.Ask(t.Context()); err != nil || p.etags[2] != fmt.Sprint(c.seq) {
				t.Errorf("it was asked with ETag %q, want that of %d: %v", p.etags[2], c.seq, err)
			}
			// Its end is the end: nothing freezes.
			now = start.Add(24 * time.Hour)
			if a := i.For(web, "BalancedSavings", now); a.Recommendation != nil || a.Reason != ReasonExpired || SeqOf(a.Message) != 0 {
				t.Errorf("after its end: %+v", a)
			}
		})
	}
}

func TestIntakeAnswersForWhatIsWanted(t *testing.T) {
	p := &fake{answer: func(string) (nopsclient.Polled[nopsapi.Recommendations], error) {
		return polled(document(7, start, 0.5))
	}}
	i := NewIntake(Deps{Platform: p, Now: func() time.Time { return start }})
	if _, _, err := i.Ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := web
	other.Name = "api"
	if a := i.For(other, "BalancedSavings", start); a.Recommendation != nil || a.Reason != ReasonUnknown {
		t.Errorf("another workload: %+v", a)
	}
	if a := i.For(web, "MaximumSavings", start); a.Recommendation != nil || a.Reason != ReasonLevel {
		t.Errorf("another level: %+v", a)
	}
	a := i.For(web, "BalancedSavings", start)
	cpu, memory := BoundsOf(a.Recommendation, "app")
	if (cpu != Bounds{Target: 500}) || (memory != Bounds{Target: 1 << 28}) {
		t.Errorf("cpu %+v, memory %+v", cpu, memory)
	}
	if cpu, memory := BoundsOf(a.Recommendation, "sidecar"); cpu.Target != 0 || memory.Target != 0 {
		t.Errorf("a container that the platform does not know: %+v, %+v", cpu, memory)
	}
}

// A process before this one took number 9: an older document is a replay, the same one is not.
func TestIntakeRecalls(t *testing.T) {
	for seq, want := range map[uint64]bool{8: false, 9: true, 10: true} {
		p := &fake{answer: func(string) (nopsclient.Polled[nopsapi.Recommendations], error) {
			return polled(document(seq, start, 0.5))
		}}
		i := NewIntake(Deps{Platform: p, Now: func() time.Time { return start }})
		i.Recall("recommendations 9 of 2026-11-28T00:00:00Z, valid until 2026-11-28T06:00:00Z", nopsapi.WorkloadRecommendation{})
		if _, fresh, err := i.Ask(t.Context()); err != nil || fresh != want {
			t.Errorf("%d: taken %v, want %v: %v", seq, fresh, want, err)
		}
	}
}

func TestWorkloads(t *testing.T) {
	now := start
	p := &fake{}
	w := NewWorkloads(Deps{Platform: p, Now: func() time.Time { return now }})
	tell := func(want int, what string) {
		t.Helper()
		if err := w.Tell(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(p.lists) != want {
			t.Fatalf("%s: %d lists were delivered, want %d", what, len(p.lists), want)
		}
	}
	tell(0, "before there is one")
	w.Set(nil)
	tell(1, "an empty list says that there are none")
	if p.lists[0].Workloads == nil || p.lists[0].Generation < start.Unix() {
		t.Errorf("%+v", p.lists[0])
	}
	one := []nopsapi.RightsizedWorkload{{WorkloadRef: web, Level: "BalancedSavings", Containers: []string{"app"}}}
	w.Set(one)
	tell(2, "a new one")
	tell(2, "the same")
	if p.lists[1].Generation <= p.lists[0].Generation {
		t.Errorf("generation %d after %d", p.lists[1].Generation, p.lists[0].Generation)
	}
	now = now.Add(25 * time.Hour)
	tell(3, "a day later")
	if p.lists[2].Generation != p.lists[1].Generation {
		t.Errorf("an unchanged list has generation %d, before %d", p.lists[2].Generation, p.lists[1].Generation)
	}
	one = []nopsapi.RightsizedWorkload{{WorkloadRef: web, Level: "MaximumSavings", Containers: []string{"app"}}}
	w.Set(one)
	p.nextErr = errors.New("down")
	if err := w.Tell(t.Context()); err == nil {
		t.Error("nobody says that it was not delivered")
	}
	tell(4, "what could not be delivered is tried again")
}

func TestOutcomes(t *testing.T) {
	p := &fake{}
	o := NewOutcomes(Deps{Platform: p, Now: func() time.Time { return start }})
	for n := range nopsapi.MaxOutcomes + 1 {
		o.Add(nopsapi.Outcome{ID: fmt.Sprint(n)})
	}
	p.nextErr = &nopsclient.Error{Kind: nopsclient.KindServer, RetryAfter: time.Minute}
	err := o.Deliver(t.Context())
	if _, after := agent.IntentOf(err); err == nil || after != time.Minute || o.Waiting() != nopsapi.MaxOutcomes+1 {
		t.Fatalf("%v, %d wait", err, o.Waiting())
	}
	for range 2 {
		if err := o.Deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, s := range p.sent {
		for _, one := range s.Outcomes {
			seen[one.ID] = true
		}
	}
	if len(p.sent) != 2 || len(seen) != nopsapi.MaxOutcomes+1 || o.Waiting() != 0 {
		t.Errorf("%d deliveries of %d outcomes, %d wait", len(p.sent), len(seen), o.Waiting())
	}
	o.Add(nopsapi.Outcome{ID: "x"})
	p.nextErr = &nopsclient.Error{Kind: nopsclient.KindRefused}
	if err := o.Deliver(t.Context()); err != nil || o.Waiting() != 0 {
		t.Errorf("what will never be taken is kept: %v, %d wait", err, o.Waiting())
	}
}

// TestIntakeRecallsWhatWasInForce: to its end and for its level, until something is taken.
func TestIntakeRecallsWhatWasInForce(t *testing.T) {
	down := func(string) (nopsclient.Polled[nopsapi.Recommendations], error) {
		return nopsclient.Polled[nopsapi.Recommendations]{}, &nopsclient.Error{Kind: nopsclient.KindUnreachable}
	}
	p := &fake{answer: down}
	i := NewIntake(Deps{Platform: p, Now: func() time.Time { return start }})
	before := document(9, start.Add(-time.Hour), 0.07) // the six hours of which one has gone
	i.Recall("recommendations 9 of 2026-11-28T00:00:00Z, valid until 2026-11-28T06:00:00Z", before.Workloads[0])
	older := document(8, start, 3).Workloads[0] // another autoscaler of the workload, written earlier
	i.Recall("recommendations 8 of 2026-11-27T23:00:00Z, valid until 2026-11-28T05:00:00Z", older)
	i.Recall("the local model alone holds", older)
	end := start.Add(5 * time.Hour)
	check := func(level string, at time.Time, reason string, milli int64) {
		t.Helper()
		a := i.For(web, level, at)
		cpu, _ := BoundsOf(a.Recommendation, "app")
		if a.Reason != reason || cpu.Target != milli || a.Seq != 9 || !a.ValidUntil.Equal(end) || reason == ReasonInForce && (SeqOf(a.Message) != 9 || !ValidUntilOf(a.Message).Equal(end)) {
			t.Errorf("%+v, %d; want %s, %d", a, cpu.Target, reason, milli)
		}
	}
	asked := func() bool {
		select {
		case <-i.Asked():
			return true
		default:
			return false
		}
	}
	check("BalancedSavings", start, ReasonInForce, 70)
	if asked() {
		t.Error("it was asked already")
	}
	if _, _, err := i.Ask(t.Context()); err == nil {
		t.Fatal("a platform that is down answers")
	}
	if !asked() {
		t.Error("an answer is one, whatever it is")
	}
	check("BalancedSavings", end.Add(-time.Second), ReasonInForce, 70)
	check("MaximumSavings", start, ReasonLevel, 0)
	check("BalancedSavings", end, ReasonExpired, 0)
	// What is taken is all there is, even if it does not know the workload.
	p.answer = func(string) (nopsclient.Polled[nopsapi.Recommendations], error) {
		d := document(10, start, 0.5)
		d.Workloads = nil
		return polled(d)
	}
	if _, fresh, err := i.Ask(t.Context()); err != nil || !fresh {
		t.Fatalf("fresh %v, %v", fresh, err)
	}
	if a := i.For(web, "BalancedSavings", start); a.Recommendation != nil || a.Reason != ReasonUnknown {
		t.Errorf("%+v", a)
	}
	i.Recall("recommendations 11 of 2026-11-28T00:00:00Z, valid until 2026-11-28T06:00:00Z", before.Workloads[0])
	if a := i.For(web, "BalancedSavings", start); a.Recommendation != nil || a.Seq != 10 {
		t.Errorf("too late: %+v", a)
	}
}

// Run goes on through failures, and ends with its context.
func TestRunIsPatient(t *testing.T) {
	asked := make(chan struct{}, 10)
	p := &fake{}
	calls := 0
	p.answer = func(string) (nopsclient.Polled[nopsapi.Recommendations], error) {
		calls++
		asked <- struct{}{}
		if calls == 1 {
			return nopsclient.Polled[nopsapi.Recommendations]{}, &nopsclient.Error{Kind: nopsclient.KindUnreachable}
		}
		return polled(document(uint64(calls), start, 0.5))
	}
	i := NewIntake(Deps{Platform: p, Now: func() time.Time { return start }, Rand: func() float64 { return 0 }})
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan struct{}, 1)
	done := make(chan error, 1)
	health := agent.NewHealth(time.Now)
	go func() { done <- i.Run(ctx, health.Loop("asking", time.Minute), func() { changed <- struct{}{} }) }()
	for range 2 {
		select {
		case <-asked:
		case <-time.After(time.Minute):
			t.Fatal("it does not ask")
		}
	}
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Fatal("nobody is told of what is new")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if i.Counts() != (Counts{Accepted: 1, Failed: 1}) {
		t.Errorf("%+v", i.Counts())
	}
}

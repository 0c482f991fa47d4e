package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

const canary = `4242.c0ffee"<c0ffee00c0ffee00c0ffee00`

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLoggerRedacts(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		log          func(*slog.Logger)
		want         string
	}{
		{"message", "concatenated by somebody", func(l *slog.Logger) { l.Info("key is " + canary) }, "key is REDACTED"},
		{"value", "an attribute", func(l *slog.Logger) { l.Info("x", "body", "a"+canary+"b") }, "aREDACTEDb"},
		{"error", "a library's error", func(l *slog.Logger) { l.Error("x", "error", fmt.Errorf("401 for %s", canary)) }, "401 for REDACTED"},
		{"key", "an attribute's name", func(l *slog.Logger) { l.Info("x", canary, 1) }, `"REDACTED":1`},
		{"group", "nested", func(l *slog.Logger) { l.WithGroup("g").With("h", canary).Info("x") }, `"h":"REDACTED"`},
		{"struct", "marshalled", func(l *slog.Logger) { l.Info("x", "v", struct{ K string }{canary}) }, `{"K":"REDACTED"}`},
		{"by name", "a secret nobody told us of", func(l *slog.Logger) { l.Info("x", "aws_secret_access_key", "hunter2") }, `"aws_secret_access_key":"REDACTED"`},
		{"header", "by name", func(l *slog.Logger) { l.Info("x", "Authorization", "Basic abc") }, `"Authorization":"REDACTED"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			tc.log(NewLogger(&out, slog.LevelInfo, canary))
			if got := out.String(); !strings.Contains(got, tc.want) || strings.Contains(got, "c0ffee") || strings.Contains(got, "hunter2") {
				t.Errorf("%s: %s, want %s in it", tc.reason, got, tc.want)
			}
		})
	}
	// The test is worth something only if a leak would be seen.
	var out bytes.Buffer
	NewLogger(&out, slog.LevelInfo).Info("key is " + canary)
	if !strings.Contains(out.String(), "c0ffee") {
		t.Errorf("a planted leak was not seen: %s", out.String())
	}
}

func TestBackoff(t *testing.T) {
	always := func(f float64) Rand { return func() float64 { return f } }
	var got []time.Duration
	b := Backoff{Base: time.Second, Max: 10 * time.Second, Rand: always(0.5)}
	for range 6 {
		got = append(got, b.Next(0))
	}
	want := []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("half of 1, 2, 4, 8, 10, 10: -want +got\n%s", diff)
	}
	b.Reset()
	if d := b.Next(0); d != 500*time.Millisecond || b.Attempts() != 1 {
		t.Errorf("after Reset %s, %d attempts", d, b.Attempts())
	}
	for range 200 { // no overflow
		if d := b.Next(0); d < 0 || d > 10*time.Second {
			t.Fatalf("waits %s", d)
		}
	}
	if d := b.Next(time.Minute); d < time.Minute || d > 66*time.Second {
		t.Errorf("a Retry-After of a minute was answered with %s", d)
	}
	if lo, hi := Jitter(time.Minute, 0.1, always(0)), Jitter(time.Minute, 0.1, always(1)); lo != 54*time.Second || hi != 66*time.Second {
		t.Errorf("jitter from %s to %s, want 54s to 66s", lo, hi)
	}
}

func TestQueue(t *testing.T) {
	q := NewQueue[int](3)
	if _, _, ok := q.Peek(); ok {
		t.Error("an empty queue has an entry")
	}
	for i := 1; i <= 3; i++ {
		if q.Push(i) {
			t.Errorf("push %d dropped", i)
		}
	}
	head, token, _ := q.Peek()
	if !q.Push(4) || q.Dropped() != 1 || q.Len() != 3 {
		t.Errorf("a fourth in three places: dropped %d, length %d", q.Dropped(), q.Len())
	}
	q.Done(token) // 1 was dropped while it was being worked on: nothing may be removed in its stead
	if next, _, _ := q.Peek(); head != 1 || next != 2 {
		t.Errorf("head %d then %d, want 1 then 2", head, next)
	}
	for want := 2; want <= 4; want++ {
		got, token, ok := q.Peek()
		if !ok || got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
		q.Done(token)
	}
	q.Done(0)
	if q.Len() != 0 {
		t.Errorf("%d left", q.Len())
	}
	select {
	case <-q.Wake():
	default:
		t.Error("pushes did not wake")
	}
}

func TestIntent(t *testing.T) {
	base := errors.New("x")
	for _, tc := range []struct {
		name, reason string
		err          error
		intent       Intent
		after        time.Duration
	}{
		{"plain", "retry is the default", base, Retry, 0},
		{"retry after", "the server said so", fmt.Errorf("sending: %w", RetryAfter(base, time.Minute)), Retry, time.Minute},
		{"stalled", "somebody has to act", fmt.Errorf("sending: %w", Stall(base)), Stalled, 0},
		{"ignore", "void", Ignorable(base), Ignore, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			intent, after := IntentOf(tc.err)
			if intent != tc.intent || after != tc.after || !errors.Is(tc.err, base) {
				t.Errorf("%s: %v %s", tc.reason, intent, after)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	now := time.Unix(1000, 0)
	h := NewHealth(func() time.Time { return now }, "b", "a")
	if err := h.Ready(); err == nil || err.Error() != "not ready: a: not yet; b: not yet" {
		t.Errorf("ready: %v", err)
	}
	h.Met("a")
	h.Unmet("b", "no route")
	if err := h.Ready(); err == nil || err.Error() != "not ready: b: no route" {
		t.Errorf("ready: %v", err)
	}
	h.Met("b")
	quick, slow := h.Loop("quick", time.Minute), h.Loop("slow", time.Hour)
	if h.Ready() != nil || h.Live() != nil {
		t.Errorf("ready %v, live %v", h.Ready(), h.Live())
	}
	now = now.Add(2 * time.Minute)
	if err := h.Live(); err == nil || err.Error() != "a loop of the agent stands still: quick has not turned for more than 1m0s" {
		t.Errorf("a loop that stands still is alive: %v", err)
	}
	slow.Turn()
	if h.Live() == nil {
		t.Error("one loop that turns hides another that stands still")
	}
	quick.Turn()
	if h.Live() != nil {
		t.Error("loops that turn are dead")
	}
	now = now.Add(2 * time.Hour)
	if err := h.Live(); err == nil || !strings.Contains(err.Error(), "quick has not turned for more than 1m0s; slow has not turned for more than 1h0m0s") {
		t.Errorf("both stand still: %v", err)
	}
	quick.End()
	slow.Turn()
	if err := h.Live(); err != nil {
		t.Errorf("a loop that is done need not turn: %v", err)
	}
}

// TestLoopsThatWaitAreAlive: what an outage makes a loop wait for, hours maybe, is no reason to restart it.
func TestLoopsThatWaitAreAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth(time.Now)
		asleep, idle := h.Loop("asleep", time.Minute), h.Loop("idle", time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		wake, ends := make(chan struct{}), make(chan error, 3)
		go func() { ends <- asleep.Sleep(ctx, 5*time.Hour) }()
		go func() { ends <- idle.Await(ctx, wake) }()
		for range 4 {
			time.Sleep(time.Hour)
			if err := h.Live(); err != nil {
				t.Fatal(err)
			}
		}
		wake <- struct{}{}
		if err := <-ends; err != nil {
			t.Errorf("work came: %v", err)
		}
		go func() { ends <- idle.Await(ctx, wake) }()
		cancel()
		for range 2 {
			if err := <-ends; !errors.Is(err, context.Canceled) {
				t.Errorf("the end: %v", err)
			}
		}
		time.Sleep(2 * time.Minute)
		if h.Live() == nil {
			t.Error("after the waits nothing turns, and that is not seen")
		}
	})
}

// TestMistakesOfTheProgram are found the first time the agent is made, in any test.
func TestMistakesOfTheProgram(t *testing.T) {
	zero := func() float64 { return 0 }
	for _, tc := range []struct {
		name, reason string
		do           func(*Metrics, *Health)
		want         string // empty: no mistake
	}{
		{"other labels", "that is what labels are for", func(m *Metrics, _ *Health) {
			m.Counter("a_total", "As.", "k", "1")
			m.Counter("a_total", "As.", "k", "2")
		}, ""},
		{"a counter twice", "one of the two would count for nobody", func(m *Metrics, _ *Health) { m.Counter("a_total", "As."); m.Counter("a_total", "As.") }, "metric a_total is registered twice"},
		{"a counter twice, with labels", "likewise", func(m *Metrics, _ *Health) {
			m.Counter("a_total", "As.", "k", "1")
			m.CounterFunc("a_total", "As.", zero, "k", "1")
		}, `metric a_total{k="1"} is registered twice`},
		{"two kinds", "a page that scrapers refuse", func(m *Metrics, _ *Health) { m.Counter("a", "As."); m.Gauge("a", "As.", "k", "1") }, "metric a is a counter (As.) and a gauge (As.)"},
		{"two texts", "one would be lost", func(m *Metrics, _ *Health) { m.Gauge("a", "As."); m.Gauge("a", "Bs.", "k", "1") }, "metric a is a gauge (As.) and a gauge (Bs.)"},
		{"half a label", "it would be left out", func(m *Metrics, _ *Health) { m.Gauge("a", "As.", "k") }, "are no pairs"},
		{"a loop twice", "one would hide that the other stands still", func(_ *Metrics, h *Health) { h.Loop("l", time.Minute); h.Loop("l", time.Minute) }, `two loops are called "l"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer func() {
				said := ""
				if r := recover(); r != nil {
					said = fmt.Sprint(r)
				}
				if (said == "") != (tc.want == "") || !strings.Contains(said, tc.want) {
					t.Errorf("%s: panic %q, want %q", tc.reason, said, tc.want)
				}
			}()
			tc.do(&Metrics{}, NewHealth(time.Now))
		})
	}
}

func TestEventIsValid(t *testing.T) {
	e := Note{Kind: "CronJob", Name: "x", UID: "u", Warning: true, Reason: "ComponentFailed", Why: strings.Repeat("ä", 2000)}.Event(Identity{Component: "heartbeat", Namespace: "nops", Version: "1"}, time.Unix(1000, 0))
	if len(e.Message) > 1024 || e.InvolvedObject.APIVersion != "batch/v1" || e.Namespace != "nops" || e.Type != "Warning" || e.Source.Component != "nops-heartbeat" || e.ReportingController != "nops.io/heartbeat" {
		t.Errorf("%d bytes of message, %+v", len(e.Message), e.InvolvedObject)
	}
}

func TestBucket(t *testing.T) {
	b := Bucket{Capacity: 2, Every: 10 * time.Second}
	now := time.Unix(1000, 0)
	for i, want := range []bool{true, true, false} {
		if got := b.Take(now); got != want {
			t.Errorf("take %d of a bucket of two: %v, want %v", i+1, got, want)
		}
	}
	if w := b.Wait(now); w != 10*time.Second {
		t.Errorf("the next in %s", w)
	}
	if now = now.Add(10 * time.Second); b.Wait(now) != 0 || !b.Take(now) || b.Take(now) {
		t.Error("one every ten seconds")
	}
}

func TestEndpoints(t *testing.T) {
	m := &Metrics{}
	c := m.Counter("a_total", "As.", "kind", `q"\`)
	c.Add(2)
	c.Add(1)
	m.Gauge("b", "Bs.").Set(1.5)
	m.GaugeFunc("big", "No exponents.", func() float64 { return 1.7e9 })
	now := time.Now
	h := NewHealth(now, "kubernetes")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Serve(l, Handler(h, m))) }()
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("healthz %d", code)
	}
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "kubernetes: not yet") {
		t.Errorf("readyz %d %s", code, body)
	}
	want := "# HELP a_total As.\n# TYPE a_total counter\na_total{kind=\"q\\\"\\\\\"} 3\n# HELP b Bs.\n# TYPE b gauge\nb 1.5\n# HELP big No exponents.\n# TYPE big gauge\nbig 1700000000\n"
	if _, body := get("/metrics"); body != want {
		t.Errorf("metrics:\n%s\nwant:\n%s", body, want)
	}
	if code, _ := get("/secrets"); code != 404 {
		t.Errorf("another path answers %d", code)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the end: %v", err)
	}
}

func TestRun(t *testing.T) {
	wait := Task{Name: "waiting", Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	for _, tc := range []struct {
		name, reason string
		task         Task
		want         string
	}{
		{"a task fails", "the others are ended", Task{Name: "failing", Run: func(context.Context) error { return errors.New("boom") }}, "failing: boom"},
		{"a task panics", "an error with a stack, not a crash", Task{Name: "panicking", Run: func(context.Context) error { panic("boom") }}, "panicking: panic: boom\n"},
		{"a task is cancelled, we are not", "a call of its own was cancelled: no reason to end as a success", Task{Name: "asking", Run: func(context.Context) error { return fmt.Errorf("a call: %w", context.Canceled) }}, "asking: a call: context canceled"},
		{"a task ends early", "it would be missing from now on, and nobody would know", Task{Name: "idling", Run: func(context.Context) error { return nil }}, "idling: it ended, though nothing asked it to"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := Run(ctx, wait, tc.task); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := Run(ctx, Task{Name: "sleeping", Run: func(ctx context.Context) error { _ = Sleep(ctx, 2*time.Hour); return nil }}); err != nil {
			t.Errorf("an ordinary end: %v", err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	finite := Task{Name: "warming up", Finite: true, Run: func(context.Context) error { cancel(); return nil }}
	if err := Run(ctx, wait, finite); err != nil {
		t.Errorf("the caller ends it: %v", err)
	}
	once := Task{Name: "warming up", Finite: true, Run: func(context.Context) error { return nil }}
	if err := Run(t.Context(), once, once); err != nil {
		t.Errorf("nothing but finite tasks: %v", err)
	}
	if err := Run(t.Context(), once, Task{Name: "failing", Finite: true, Run: func(context.Context) error { return errors.New("boom") }}); err == nil {
		t.Error("a finite task may fail like any other")
	}
}

func TestOptions(t *testing.T) {
	env := map[string]string{EnvAPIKey: " " + canary + "\n", EnvClusterARN: "arn:aws:eks:us-east-1:123456789012:cluster/x", EnvNamespace: "nops"}
	var o struct {
		PlatformOptions
		ProcessOptions
	}
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	getenv := func(k string) string { return env[k] }
	o.PlatformOptions.BindFlags(fs, getenv)
	o.ProcessOptions.BindFlags(fs, getenv)
	if err := fs.Parse([]string{"--namespace", "other"}); err != nil {
		t.Fatal(err)
	}
	want := o
	want.PlatformOptions = PlatformOptions{APIKey: canary, Host: DefaultHost, ClusterARN: env[EnvClusterARN]}
	want.ProcessOptions = ProcessOptions{Namespace: "other", Release: DefaultRelease, ListenAddress: ":8080", LogLevel: "info"}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if err := errors.Join(o.PlatformOptions.Validate(), o.ProcessOptions.Validate()); err != nil {
		t.Errorf("valid options: %v", err)
	}
	if strings.Contains(fs.FlagUsages(), canary) {
		t.Error("--help shows the API key")
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if strings.Contains(f.Name, "key") {
			t.Errorf("--%s: arguments are public", f.Name)
		}
	})
	if pem, err := o.CABundle(); pem != nil || err != nil {
		t.Errorf("no bundle named: %q, %v", pem, err)
	}
	for _, tc := range []struct {
		name  string
		err   error
		parts []string
	}{
		{"platform", (&PlatformOptions{Host: "app.nops.io"}).Validate(), []string{EnvAPIKey, "--host", "--cluster-arn"}},
		{"process", (&ProcessOptions{LogLevel: "loud"}).Validate(), []string{"--namespace", "--release", "--log-level"}},
	} {
		for _, part := range tc.parts {
			if tc.err == nil || !strings.Contains(tc.err.Error(), part) {
				t.Errorf("%s: %v does not mention %s", tc.name, tc.err, part)
			}
		}
	}
}

// quiet is an agent that has nothing to do with the platform.
type quiet struct{ ProcessOptions }

// TestProgramWithoutThePlatform: an agent that does not speak to the platform starts without a key, and reads none.
func TestProgramWithoutThePlatform(t *testing.T) {
	var read []string
	getenv := func(k string) string {
		read = append(read, k)
		return map[string]string{EnvNamespace: "nops", "OTHER_SECRET": canary}[k]
	}
	var stdout, stderr bytes.Buffer
	p := Program{Name: "quiet", About: "does little.", Secrets: []string{"OTHER_SECRET"}, Commands: []Command{{Name: "work", About: "do it", Run: func(_ context.Context, c *Call) error {
		var o quiet
		if err := c.Parse(&o); err != nil {
			return err
		}
		log, err := c.Logger(o.ProcessOptions)
		if err != nil {
			return err
		}
		log.Info("working", "with", canary)
		fmt.Fprintln(c.Out(), "the answer is "+canary)
		return fmt.Errorf("it broke: %s", canary)
	}}}}
	main := func(args ...string) int {
		stdout.Reset()
		stderr.Reset()
		return p.Main(t.Context(), Process{Args: args, Getenv: getenv, Stdout: &stdout, Stderr: &stderr, Version: "1.2.3"})
	}
	if code := main("work"); code != 1 || !strings.Contains(stdout.String(), "the answer is REDACTED") || !strings.Contains(stderr.String(), "quiet: it broke: REDACTED") || strings.Contains(stdout.String()+stderr.String(), "c0ffee") {
		t.Errorf("exit %d\nstdout: %s\nstderr: %s", code, &stdout, &stderr)
	}
	if code := main("work", "--host", "x"); code != 2 || !strings.Contains(stderr.String(), "unknown flag: --host") {
		t.Errorf("a flag of the platform: exit %d, %s", code, &stderr)
	}
	if code := main("work", "--namespace", ""); code != 2 || !strings.Contains(stderr.String(), "--namespace (POD_NAMESPACE) is empty") {
		t.Errorf("no namespace: exit %d, %s", code, &stderr)
	}
	if code := main("help"); code != 0 || stdout.String() != "quiet does little.\n\n  work     do it\n  version  print the version\n\nEach command lists its flags with --help.\n" {
		t.Errorf("help: exit %d, %s", code, &stdout)
	}
	if code := main("walk"); code != 2 || stderr.String() != "quiet: \"walk\" is no command; there are work and version\n" {
		t.Errorf("no command: exit %d, %s", code, &stderr)
	}
	for _, k := range []string{EnvHost, EnvClusterARN} {
		if slices.Contains(read, k) {
			t.Errorf("%s was read", k)
		}
	}
}

// TestSparing lets through what is news, and not much of it at once.
func TestSparing(t *testing.T) {
	now := time.Unix(1000, 0)
	s := NewSparing(3, time.Minute)
	for i, step := range []struct {
		reason string
		note   Note
		want   bool
	}{
		{"news", Note{Topic: "a", Reason: "Failed", Why: "x"}, true},
		{"the same again", Note{Topic: "a", Reason: "Failed", Why: "x"}, false},
		{"for another reason", Note{Topic: "a", Reason: "Failed", Why: "y"}, true},
		{"about another thing", Note{Topic: "b", Reason: "Failed", Why: "y"}, true},
		{"too much at once", Note{Topic: "c", Reason: "Failed", Why: "y"}, false},
	} {
		if got := s.Allow(step.note, now); got != step.want {
			t.Errorf("step %d, %s: %v", i, step.reason, got)
		}
	}
	if !s.Allow(Note{Topic: "c", Reason: "Failed", Why: "y"}, now.Add(time.Minute)) {
		t.Error("what had to wait is lost")
	}
}

// TestHeadroom leaves some of the container's limit alone, and what nobody limited unlimited.
func TestHeadroom(t *testing.T) {
	was := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(was)
	for _, c := range []struct {
		said       string
		limit, now int64
	}{{"1000", 1000, 900}, {"", 1000, 1000}, {"off", math.MaxInt64, math.MaxInt64}} {
		debug.SetMemoryLimit(c.limit)
		Headroom(func(name string) string {
			if name != "GOMEMLIMIT" {
				t.Errorf("%s was read", name)
			}
			return c.said
		})
		if got := debug.SetMemoryLimit(-1); got != c.now {
			t.Errorf("GOMEMLIMIT=%q: %d, want %d", c.said, got, c.now)
		}
	}
}

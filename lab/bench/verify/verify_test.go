package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// TestCritical: the longest chain is that of what had to be told, not of what happened to follow.
func TestCritical(t *testing.T) {
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	one := func(name string, start, end int, learned string, needs ...string) *request {
		return &request{uri: name, start: at(start), end: at(end), learned: learned, needs: needs}
	}
	for _, tt := range []struct {
		name, reason string
		requests     []*request
		want         []string
	}{
		{"nothing", "no request, no path", nil, nil},
		{"alone", "a tag is known from the beginning", []*request{one("tag", 0, 50, a)}, []string{"tag"}},
		{"one after another", "they follow, and none tells what the next needs", []*request{one("x", 0, 50, a), one("y", 50, 100, b), one("z", 100, 150, c)}, []string{"x"}},
		{"a chain", "each names what the one before told", []*request{one("tag", 0, 50, a), one("list", 50, 100, b, a), one("manifest", 100, 150, c, b), one("blob", 150, 200, "", c)}, []string{"tag", "list", "manifest", "blob"}},
		{"out of order", "answers are noted as they end", []*request{one("list", 50, 100, b, a), one("tag", 0, 50, a)}, []string{"tag", "list"}},
		{"told twice", "the first and shortest way counts: the detour was not needed", []*request{one("tag", 0, 50, a), one("list", 50, 100, a+b, a), one("again", 100, 150, "", a), one("last", 150, 200, "", a)}, []string{"tag", "list"}},
		{"two needs", "the later of two that are both needed counts", []*request{one("tag", 0, 50, a), one("list", 50, 100, b, a), one("both", 100, 150, "", a, b)}, []string{"tag", "list", "both"}},
		{"too late", "what was still on its way when the request left did not tell it", []*request{one("tag", 0, 50, a), one("guess", 40, 90, "", a)}, []string{"tag"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, r := range critical(tt.requests) {
				got = append(got, r.uri)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s:\n%s", tt.reason, diff)
			}
		})
	}
}

// TestTracer: a request takes a round trip, requests at the same time take one together, and what was answered is known.
func TestTracer(t *testing.T) {
	tr := &tracer{roundTrip: 30 * time.Millisecond}
	s := httptest.NewServer(tr.around(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Told", "by a header")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"payload": "dGhlIHBheWxvYWQ", "protected": "dGhlIGpvYg", "header": {}}`)
	})))
	defer s.Close()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			began := time.Now()
			res, err := http.Get(s.URL + "/v2/x/manifests/sha256-" + strings.Repeat("0f", 32) + ".sig?jobArn=arn%3Aj")
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if took := time.Since(began); took < tr.roundTrip {
				t.Errorf("it took %s", took)
			}
		})
	}
	all.Wait()
	got := tr.take()
	if len(got) != 8 || len(tr.take()) != 0 {
		t.Fatalf("%d requests, and not taken once", len(got))
	}
	overlap := 0
	for i, r := range got {
		if r.status != http.StatusAccepted || r.kind() != ".sig tag" || !slices.Equal(r.needs, []string{strings.Repeat("0f", 32), "arn:j"}) {
			t.Errorf("%+v, a %s", r, r.kind())
		}
		for _, told := range []string{"by a header", "the payload", "the job", `"header": {}`} {
			if !strings.Contains(r.learned, told) {
				t.Errorf("%q was told, and is not in\n%s", told, r.learned)
			}
		}
		if i > 0 && r.start.Before(got[0].end) {
			overlap++
		}
	}
	if overlap == 0 {
		t.Error("the server makes requests wait for each other")
	}
}

// TestWorld: what is there to be verified is there, and reading it has the path that the page speaks of.
func TestWorld(t *testing.T) {
	dir := t.TempDir()
	w, err := newWorld(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.trace.take()
	source := oci.New(oci.Options{})
	mirrors, err := ref.ParseMirrors([]string{w.mirror()})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	var all sync.WaitGroup
	began := time.Now()
	for _, i := range append([]image{w.tampered, w.revoked}, w.images...) {
		names[i.published()] = true
		all.Go(func() {
			canonical, err := ref.Parse(i.published())
			if err != nil {
				t.Error(err)
				return
			}
			a, err := source.Resolve(t.Context(), canonical, mirrors.Locate(canonical))
			if err != nil {
				t.Error(err)
				return
			}
			found, err := source.Signatures(t.Context(), a)
			formats := map[oci.Format]int{}
			for _, s := range found.Found {
				formats[s.Format]++
			}
			if diff := cmp.Diff(map[oci.Format]int{oci.NotaryJWS: 1, oci.CosignLegacy: 1}, formats); diff != "" || err != nil || a.Descriptor.Digest.String() != i.digest {
				t.Errorf("%s: %v, %s:\n%s", i.name, err, a.Descriptor.Digest, diff)
			}
		})
	}
	all.Wait()
	t.Logf("15 images: %s", time.Since(began))
	if len(names) != imageCount+2 {
		t.Errorf("%d names, want %d", len(names), imageCount+2)
	}
	path := critical(w.trace.take())
	if got := kinds(path); got != strings.Join(least[:4], " → ") {
		t.Errorf("the longest chain is %s", got)
	}
	for method, file := range w.policies {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Parse(text, policy.Options{Source: file, Read: func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) }})
		if err != nil {
			t.Fatal(err)
		}
		for name := range names {
			if rule, ok := p.RuleFor(name[:strings.LastIndex(name, ":")]); !ok || string(rule.Require.Leaf.Method) != method {
				t.Errorf("%s: no rule of %s is about it", name, method)
			}
		}
	}
}

// TestMemory: what a small program needs is not what we need ourselves.
func TestMemory(t *testing.T) {
	m, err := remembered(nil, "/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if limit := int64(6 << 20); m.own <= 0 || m.own > m.peak || m.peak > limit {
		t.Errorf("true needs %d bytes, %d of its own, of at most %d", m.peak, m.own, limit)
	}
	ours, err := readMemory(os.Getpid())
	if err != nil || ours.peak < m.peak {
		t.Errorf("we need %d, which is no more than that: %v", ours.peak, err)
	}
	if _, err := remembered(nil, "/bin/false"); err == nil {
		t.Error("a program that fails is measured")
	}
	if _, err := remembered(nil, "/bin/nowhere"); err == nil {
		t.Error("a program that is not there is measured")
	}
}

// TestCheck: a pass that is slower than claimed fails the run, and so does a path that is longer than it need be.
func TestCheck(t *testing.T) {
	path := make([]*request, len(least))
	for i := range path {
		path[i] = &request{uri: "/v2/"}
	}
	long := append(slices.Clone(path), &request{uri: "/v2/"})
	limit := time.Duration(within * float64(len(least)) * float64(roundTrip))
	limitAWS := time.Duration(withinAWS * float64(len(least)) * float64(roundTrip))
	for _, tt := range []struct {
		name string
		way  *way
		want string
	}{
		{"within", &way{ours: true, passes: []pass{{inside: limit, path: path}}}, ""},
		{"slower", &way{ours: true, passes: []pass{{inside: limit + time.Millisecond, path: path}}}, "times its critical path"},
		{"a detour", &way{ours: true, passes: []pass{{inside: limit, path: long}}}, "depend on each other"},
		{"computing beside it", &way{ours: true, aws: true, passes: []pass{{inside: limitAWS, path: path}}}, ""},
		{"more than that computing", &way{ours: true, aws: true, passes: []pass{{inside: limitAWS + time.Millisecond, path: path}}}, "times its critical path"},
		{"somebody else's", &way{passes: []pass{{inside: 10 * limit, path: long}}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := report{ways: []*way{tt.way}, computing: 80 * time.Millisecond}.check()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// TestWhole: a pass that left out an image, a signature or a revocation is not taken for a fast one.
func TestWhole(t *testing.T) {
	b := &bench{world: &world{images: make([]image, 2)}}
	complete := []*request{
		{uri: "/v2/a/manifests/1", status: 200}, {uri: "/v2/b/manifests/1", status: 200},
		{uri: "/v2/a/blobs/sha256:" + strings.Repeat("a", 64), status: 200}, {uri: "/v2/b/blobs/sha256:" + strings.Repeat("b", 64), status: 200},
		{uri: "/revocations?jobArn=1", status: 200}, {uri: "/revocations?jobArn=2", status: 200},
	}
	w := &way{aws: true}
	if err := b.whole(w, pass{requests: complete}); err != nil {
		t.Error(err)
	}
	for i := range complete {
		if err := b.whole(w, pass{requests: append(slices.Clone(complete[:i]), complete[i+1:]...)}); err == nil {
			t.Errorf("complete without %s", complete[i].uri)
		}
		failed := *complete[i]
		failed.status = http.StatusNotFound
		if err := b.whole(w, pass{requests: append(slices.Clone(complete[:i]), append([]*request{&failed}, complete[i+1:]...)...)}); err == nil {
			t.Errorf("complete although %s was not answered", complete[i].uri)
		}
	}
}

// TestPage: the page in docs is of today's program, of the cosign that is pinned, and of as many images.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/verification-speed.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	var pinned string
	for _, p := range build.Peers() {
		if p.Name == "cosign" {
			_, pinned, _ = strings.Cut(p.LDFlags, "gitVersion=")
			pinned, _, _ = strings.Cut(pinned, " ")
		}
	}
	for _, want := range []string{howItIsMeasured, "cosign " + pinned + ",", baseline[:7], "13 images in one pass", strings.Join(least, " → "), "helm version"} {
		if want == "" || !strings.Contains(text, want) {
			t.Errorf("docs/verification-speed.md does not have %q: measure again with make bench BENCH=-write", want)
		}
	}
}

// TestInterrupted: a run that is interrupted ends, and leaves nothing.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	if err := run(ctx, nil, io.Discard, io.Discard); err == nil {
		t.Error("it ran to its end")
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

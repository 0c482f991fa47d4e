package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	orasoci "oras.land/oras-go/v2/content/oci"

	"github.com/nopsctl/nopsctl/pkg/verify/mirror"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/oci/ocitest"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

const (
	repo  = "nops/agent"
	there = "corp/nops/agent"
)

// stock puts an index with two images into a registry, signed in every way, with an SBOM beside; and a second image.
func stock(t *testing.T, r *ocitest.Registry, referrers bool) (index, single ocispec.Descriptor) {
	t.Helper()
	amd, arm := r.Image(t, repo, "", "amd64", nil), r.Image(t, repo, "", "arm64", nil)
	index = r.Index(t, repo, "1.0.0", amd, arm)
	hanging := []ocispec.Descriptor{
		r.Sign(t, repo, index, ocitest.NotarySignature("notary")), r.Sign(t, repo, index, ocitest.BundleSignature("bundle")),
		r.Sign(t, repo, index, ocitest.Signature{Type: "application/spdx+json", Layer: "text/spdx", Layers: []string{"sbom"}}),
	}
	onChild := r.Sign(t, repo, arm, ocitest.NotarySignature("notary of a child"))
	older := ocitest.NotarySignature("without a subject")
	older.NoSubject = true
	if referrers {
		hanging = nil
	} else {
		r.Fallback(t, repo, arm, onChild)
	}
	r.Fallback(t, repo, index, append(hanging, r.Sign(t, repo, index, older))...)
	r.Cosign(t, repo, index, "cosign", "cosign too")
	return index, r.Image(t, repo, "2.0.0", "single", nil)
}

func items(r *ocitest.Registry, to func(ref.Reference) ref.Reference) []mirror.Item {
	var all []mirror.Item
	for _, tag := range []string{"1.0.0", "2.0.0"} {
		canonical := ref.Reference{Registry: "public.ecr.aws", Repository: repo, Tag: tag}
		all = append(all, mirror.Item{Canonical: canonical, From: r.Ref(repo, tag), To: to(canonical)})
	}
	return all
}

func payloads(t *testing.T, s oci.Source, canonical, at ref.Reference) (string, []string) {
	t.Helper()
	a, err := s.Resolve(t.Context(), canonical, at)
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.Signatures(t.Context(), a)
	if err != nil || len(found.Failed)+len(found.Broken) > 0 {
		t.Fatalf("%v: failed %v, broken %v", err, found.Failed, found.Broken)
	}
	all := []string{}
	for _, f := range found.Found {
		all = append(all, string(f.Format)+" "+string(f.Payload))
	}
	slices.Sort(all)
	return a.Descriptor.Digest.String(), all
}

// TestCopy: what is copied has the digests and the signatures of what it is a copy of, wherever it is copied to.
func TestCopy(t *testing.T) {
	for _, source := range []string{"registry", "registry without referrers", "layout"} {
		for _, target := range []string{"registry", "registry without referrers", "registry that answers 405 for referrers", "registry that refuses subjects", "layout"} {
			t.Run(source+" to "+target, func(t *testing.T) {
				ctx := t.Context()
				r := ocitest.New(t, source != "registry without referrers")
				index, single := stock(t, r, source != "registry without referrers")
				var from oci.Shelf = oci.New(oci.Options{})
				fromItems := items(r, func(c ref.Reference) ref.Reference { return c })
				if source == "layout" {
					dir := filepath.Join(t.TempDir(), "layout")
					l, err := mirror.ToLayout(dir)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := mirror.Copy(ctx, from, l, fromItems, mirror.Options{}); err != nil {
						t.Fatal(err)
					}
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
					shelf, err := oci.OpenLayout(dir, oci.Options{})
					if err != nil {
						t.Fatal(err)
					}
					defer shelf.Close()
					from = shelf
				}

				target2 := ocitest.New(t, target == "registry")
				refuses := func(w http.ResponseWriter, req *http.Request) bool {
					switch {
					case target == "registry that answers 405 for referrers" && strings.Contains(req.URL.Path, "/referrers/"):
					case target == "registry that refuses subjects" && req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/"):
						body, _ := io.ReadAll(req.Body)
						req.Body = io.NopCloser(bytes.NewReader(body))
						if !bytes.Contains(body, []byte(`"subject"`)) {
							return false
						}
					default:
						return false
					}
					w.WriteHeader(http.StatusMethodNotAllowed)
					return true
				}
				target2.Before(refuses)
				var to mirror.To = mirror.ToRegistry(oci.New(oci.Options{}))
				var read oci.Shelf = oci.New(oci.Options{})
				place := func(c ref.Reference) ref.Reference { return target2.Ref(there, c.Tag) }
				if target == "layout" {
					dir := filepath.Join(t.TempDir(), "copy")
					l, err := mirror.ToLayout(dir)
					if err != nil {
						t.Fatal(err)
					}
					defer l.Close()
					to, place = l, func(c ref.Reference) ref.Reference { return c }
				}

				var events []mirror.Progress
				todo := items(r, place)
				report, err := mirror.Copy(ctx, from, to, todo, mirror.Options{Observe: func(p mirror.Progress) { events = append(events, p) }})
				if err != nil {
					t.Fatal(err)
				}
				others := map[bool]int{true: 0, false: 1}[source == "layout"] // the SBOM did not come into the layout
				if len(report.Copied) != 2 || report.Signatures != 5 || report.Sent == 0 || report.Copied[0].Others != others {
					t.Errorf("%d copied, %d signatures, %d bytes, %d others", len(report.Copied), report.Signatures, report.Sent, report.Copied[0].Others)
				}
				if rewritten := len(report.Copied[0].Rewritten); rewritten != map[bool]int{true: 3}[target == "registry that refuses subjects"] {
					t.Errorf("%d signatures rewritten", rewritten)
				}
				if target == "layout" {
					var done func()
					if read, done, err = to.Read(ctx); err != nil {
						t.Fatal(err)
					}
					defer done()
				}
				for i, want := range []struct {
					sum        string
					signatures []string
				}{{index.Digest.String(), []string{"cosign cosign", "cosign cosign too", "notary-jws notary", "notary-jws without a subject", "sigstore-bundle bundle"}}, {single.Digest.String(), []string{}}} {
					sum, got := payloads(t, read, todo[i].Canonical, todo[i].To)
					if diff := cmp.Diff(want.signatures, got); sum != want.sum || diff != "" {
						t.Errorf("%s is %s, want %s: %s", todo[i].To, sum, want.sum, diff)
					}
				}
				child, err := read.Resolve(ctx, todo[0].Canonical, todo[0].To)
				if err != nil || len(child.Children) != 2 {
					t.Fatalf("%+v, %v", child, err)
				}
				arm := child.Children[1].Digest.String()
				if _, got := payloads(t, read, ref.Reference{Registry: "public.ecr.aws", Repository: repo, Digest: arm}, ref.Reference{Registry: todo[0].To.Registry, Repository: todo[0].To.Repository, Digest: arm}); !slices.Equal(got, []string{"notary-jws notary of a child"}) {
					t.Errorf("the child has %v", got)
				}
				last := map[string]string{}
				for _, e := range events {
					if was := last[e.Item.To.String()]; was == "tag" && e.What != "done" {
						t.Errorf("%s after the tag", e.What)
					}
					last[e.Item.To.String()] = e.What
				}

				// Once more: nothing is sent.
				target2.Before(refuses)
				again, err := mirror.Copy(ctx, from, to, todo, mirror.Options{})
				if err != nil {
					t.Fatal(err)
				}
				sent := target2.Count("POST", "") + target2.Count("PATCH", "") + target2.Count("PUT", "")
				if target == "registry that refuses subjects" {
					sent -= 3 // what it refuses is offered again
				}
				if again.Sent != 0 || again.Present != report.Sent+report.Present || sent != 0 {
					t.Errorf("sent %d bytes again (%d present, %d at first), with %d requests: %v", again.Sent, again.Present, report.Sent, sent, target2.Log())
				}
			})
		}
	}
}

// TestPlainCopyLosesSignatures: what a copy without us leaves behind is what the caller needs to say "signatures-not-mirrored":
// everything was looked at, nothing is there, and the published name is another one.
func TestPlainCopyLosesSignatures(t *testing.T) {
	r, plain := ocitest.New(t, true), ocitest.New(t, true)
	image := r.Image(t, repo, "1.0.0", "one", nil)
	r.Sign(t, repo, image, ocitest.NotarySignature("n"))
	if copied := plain.Image(t, there, "1.0.0", "one", nil); copied.Digest != image.Digest {
		t.Fatal("not a copy")
	}
	canonical := ref.Reference{Registry: "public.ecr.aws", Repository: repo, Tag: "1.0.0"}
	s := oci.New(oci.Options{})
	a, err := s.Resolve(t.Context(), canonical, plain.Ref(there, "1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.Signatures(t.Context(), a)
	if err != nil || len(found.Found)+len(found.Broken)+len(found.Failed) != 0 || len(found.Looked) != 3 || a.Canonical.Name() == a.Location.Name() {
		t.Errorf("%+v %+v, %v", a, found, err)
	}
}

// TestCutOff: a run that breaks off anywhere leaves no tag, and the next one finishes it.
func TestCutOff(t *testing.T) {
	r := ocitest.New(t, true)
	stock(t, r, true)
	full := ocitest.New(t, true)
	todo := func(to *ocitest.Registry) []mirror.Item {
		return items(r, func(c ref.Reference) ref.Reference { return to.Ref(there, c.Tag) })[:1]
	}
	full.Before(nil)
	if _, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), mirror.ToRegistry(oci.New(oci.Options{})), todo(full), mirror.Options{}); err != nil {
		t.Fatal(err)
	}
	all := len(full.Log())
	cuts := 0
	for cut := 1; cut < all; cut += 7 {
		to := ocitest.New(t, true)
		var n atomic.Int64
		to.Before(func(w http.ResponseWriter, _ *http.Request) bool {
			if n.Add(1) > int64(cut) {
				w.WriteHeader(http.StatusInternalServerError)
				return true
			}
			return false
		})
		report, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), mirror.ToRegistry(oci.New(oci.Options{})), todo(to), mirror.Options{})
		if err == nil || report.Copied[0].Err == nil {
			t.Fatalf("cut at %d: no error", cut)
		}
		if to.Has(t, there, "1.0.0") {
			t.Fatalf("cut at %d of %d: there is a tag", cut, all)
		}
		cuts++
		to.Before(nil)
		second, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), mirror.ToRegistry(oci.New(oci.Options{})), todo(to), mirror.Options{})
		if err != nil || second.Signatures != 5 {
			t.Fatalf("cut at %d: %+v, %v", cut, second, err)
		}
		if report.Sent > 0 && second.Sent+report.Sent > second.Sent+second.Present {
			t.Errorf("cut at %d: %d bytes sent, then %d, of %d", cut, report.Sent, second.Sent, second.Sent+second.Present)
		}
	}
	if cuts < 5 {
		t.Errorf("%d cuts of %d requests", cuts, all)
	}
}

// TestLyingSource: bytes that do not have their digest are never complete anywhere.
func TestLyingSource(t *testing.T) {
	for _, c := range []struct {
		name string
		lie  func(w http.ResponseWriter, layer []byte)
		want verdict.Reason
	}{
		{"same length", func(w http.ResponseWriter, layer []byte) { _, _ = w.Write(bytes.ToUpper(layer)) }, verdict.RegistryLied},
		{"shorter", func(w http.ResponseWriter, layer []byte) { _, _ = w.Write(layer[1:]) }, verdict.RegistryOdd},
		{"longer, wrong", func(w http.ResponseWriter, layer []byte) { _, _ = w.Write(append([]byte("x"), layer...)) }, verdict.RegistryLied},
		{"empty", func(http.ResponseWriter, []byte) {}, verdict.RegistryOdd},
	} {
		for _, kind := range []string{"registry", "layout"} {
			t.Run(c.name+" to "+kind, func(t *testing.T) {
				r := ocitest.New(t, true)
				r.Image(t, repo, "1.0.0", "one", nil)
				layer := []byte("layer of one")
				d := r.Blob(t, repo, "", layer)
				r.Before(func(w http.ResponseWriter, req *http.Request) bool {
					if !strings.HasSuffix(req.URL.Path, d.Digest.String()) {
						return false
					}
					c.lie(w, layer)
					return true
				})
				target := ocitest.New(t, true)
				var to mirror.To = mirror.ToRegistry(oci.New(oci.Options{}))
				if kind == "layout" {
					l, err := mirror.ToLayout(filepath.Join(t.TempDir(), "copy"))
					if err != nil {
						t.Fatal(err)
					}
					defer l.Close()
					to = l
				}
				item := mirror.Item{Canonical: ref.Reference{Registry: "public.ecr.aws", Repository: repo, Tag: "1.0.0"}, From: r.Ref(repo, "1.0.0"), To: target.Ref(there, "1.0.0")}
				_, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), to, []mirror.Item{item}, mirror.Options{})
				var e *oci.Error
				if !errors.As(err, &e) || e.Finding.Reason != c.want {
					t.Errorf("%v; want %s", err, c.want)
				}
				if present, err := to.Has(t.Context(), item.To, ocispec.Descriptor{Digest: d.Digest, Size: d.Size}); present || err != nil && kind == "layout" {
					t.Errorf("it is there: %t, %v", present, err)
				}
				if target.Has(t, there, "1.0.0") {
					t.Error("there is a tag")
				}
			})
		}
	}
}

// TestStall: a transfer that stands still is given up.
func TestStall(t *testing.T) {
	r := ocitest.New(t, true)
	r.Image(t, repo, "1.0.0", "one", nil)
	d := r.Blob(t, repo, "", []byte("layer of one"))
	r.Before(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, d.Digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", "12")
		_, _ = w.Write([]byte("lay"))
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
		return true
	})
	to := ocitest.New(t, true)
	item := mirror.Item{Canonical: ref.Reference{Registry: "public.ecr.aws", Repository: repo, Tag: "1.0.0"}, From: r.Ref(repo, "1.0.0"), To: to.Ref(there, "1.0.0")}
	_, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), mirror.ToRegistry(oci.New(oci.Options{})), []mirror.Item{item}, mirror.Options{Idle: 100 * time.Millisecond})
	var e *oci.Error
	if !errors.As(err, &e) || e.Finding.Reason != verdict.TimedOut {
		t.Errorf("%v", err)
	}
}

// TestOneFails: the others are copied, and the report says which failed.
func TestOneFails(t *testing.T) {
	r, to := ocitest.New(t, true), ocitest.New(t, true)
	stock(t, r, true)
	todo := items(r, func(c ref.Reference) ref.Reference { return to.Ref(there, c.Tag) })
	todo[0].From.Tag = "none"
	report, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), mirror.ToRegistry(oci.New(oci.Options{})), todo, mirror.Options{})
	var e *oci.Error
	if !errors.As(err, &e) || e.Finding.Reason != verdict.NotFound || report.Copied[0].Err == nil || report.Copied[1].Err != nil || !to.Has(t, there, "2.0.0") {
		t.Errorf("%v, %+v", err, report)
	}
}

// TestUnseenSignatures: a place that cannot be looked at stops the copy; otherwise it would be a copy without signatures.
func TestUnseenSignatures(t *testing.T) {
	r, to := ocitest.New(t, true), ocitest.New(t, true)
	stock(t, r, true)
	r.Before(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, ".sig") {
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	todo := items(r, func(c ref.Reference) ref.Reference { return to.Ref(there, c.Tag) })
	_, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), mirror.ToRegistry(oci.New(oci.Options{})), todo, mirror.Options{})
	if err == nil || !strings.Contains(err.Error(), ".sig tag") || to.Has(t, there, "1.0.0") {
		t.Errorf("%v", err)
	}
}

// TestTargetsThatRefuse: the error says what to do.
func TestTargetsThatRefuse(t *testing.T) {
	r := ocitest.New(t, true)
	stock(t, r, true)
	for _, c := range []struct {
		status int
		want   verdict.Reason
		says   string
	}{
		{http.StatusUnauthorized, verdict.RegistryDenied, "from this writer"},
		{http.StatusForbidden, verdict.RegistryDenied, "from this writer"},
		{http.StatusNotFound, verdict.NotFound, "must be made before"},
		{http.StatusInsufficientStorage, verdict.RegistryOdd, "507"},
	} {
		to := ocitest.New(t, true)
		to.Before(func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodGet || req.Method == http.MethodHead {
				return false
			}
			w.WriteHeader(c.status)
			return true
		})
		_, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), mirror.ToRegistry(oci.New(oci.Options{})), items(r, func(c ref.Reference) ref.Reference { return to.Ref(there, c.Tag) }), mirror.Options{})
		var e *oci.Error
		if !errors.As(err, &e) || e.Finding.Reason != c.want || !strings.Contains(err.Error(), c.says) {
			t.Errorf("HTTP %d: %v; want %s with %q", c.status, err, c.want, c.says)
		}
	}
}

// TestLayoutIsAnOCILayout: oras reads what we write, with what hangs on it; and bytes on disk that were changed are noticed.
func TestLayoutIsAnOCILayout(t *testing.T) {
	ctx := t.Context()
	r := ocitest.New(t, true)
	index, _ := stock(t, r, true)
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := mirror.ToLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	todo := items(r, func(c ref.Reference) ref.Reference { return c })
	var evidence []string
	if _, err := mirror.Copy(ctx, oci.New(oci.Options{}), l, todo, mirror.Options{Evidence: func(_ context.Context, w io.Writer, copied []mirror.Copied) error {
		for _, c := range copied {
			evidence = append(evidence, fmt.Sprint(c.Canonical, " ", len(c.Signatures)))
		}
		_, err := io.WriteString(w, "evidence")
		return err
	}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"public.ecr.aws/nops/agent:1.0.0 5", "public.ecr.aws/nops/agent:2.0.0 0"}, evidence); diff != "" {
		t.Error(diff)
	}
	if data, err := os.ReadFile(filepath.Join(dir, mirror.EvidenceFile)); err != nil || string(data) != "evidence" {
		t.Errorf("%q, %v", data, err)
	}

	store, err := orasoci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := store.Resolve(ctx, "public.ecr.aws/nops/agent:1.0.0")
	if err != nil || d.Digest != index.Digest || d.MediaType != index.MediaType {
		t.Fatalf("%+v, %v", d, err)
	}
	if data, err := content.FetchAll(ctx, store, d); err != nil || int64(len(data)) != index.Size {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	hanging, err := store.Predecessors(ctx, d)
	if err != nil || len(hanging) < 2 {
		t.Errorf("oras finds %v, %v", hanging, err)
	}

	shelf, err := oci.OpenLayout(dir, oci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer shelf.Close()
	if diff := cmp.Diff([]ref.Reference{todo[0].Canonical, todo[1].Canonical}, shelf.References()); diff != "" {
		t.Errorf("references: %s", diff)
	}
	blob := filepath.Join(dir, "blobs", "sha256", index.Digest.Encoded())
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, append(data, ' '), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = shelf.Resolve(ctx, todo[0].Canonical, todo[0].Canonical)
	var e *oci.Error
	if !errors.As(err, &e) || e.Finding.Reason != verdict.RegistryLied {
		t.Errorf("%v", err)
	}
	// And the next copy mends it.
	if _, err := mirror.Copy(ctx, oci.New(oci.Options{}), l, todo, mirror.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err = shelf.Resolve(ctx, todo[0].Canonical, todo[0].Canonical); err != nil {
		t.Errorf("%v", err)
	}
}

// TestLayoutKeepsOut: neither a directory of somebody else's nor a path out of it is written or read.
func TestLayoutKeepsOut(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.tex"), []byte("…"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := mirror.ToLayout(foreign); err == nil {
		_ = l.Close()
		t.Error("made a layout among other files")
	}
	if o := (mirror.Options{Evidence: func(context.Context, io.Writer, []mirror.Copied) error { return nil }}); true {
		if _, err := mirror.Copy(t.Context(), oci.New(oci.Options{}), mirror.ToRegistry(oci.New(oci.Options{})), nil, o); err == nil {
			t.Error("a registry keeps no evidence")
		}
	}
	left := filepath.Join(t.TempDir(), "layout")
	if err := os.MkdirAll(filepath.Join(left, "blobs"), 0o750); err != nil {
		t.Fatal(err)
	}
	rest := filepath.Join(left, "blobs", ".part-7")
	if err := os.WriteFile(rest, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := mirror.ToLayout(left)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := os.Stat(rest); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a run left behind is still there: %v", err)
	}
}

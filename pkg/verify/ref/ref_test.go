package ref_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/pkg/verify/internal/seal"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

const (
	one = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	two = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

func parse(t testing.TB, s string) ref.Reference {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParse(t *testing.T) {
	long := strings.Repeat("a", 255)
	for _, tt := range []struct {
		in, reason, registry, repository, tag, digest string
	}{
		{"public.ecr.aws/nops/vpa:0.1.0", "", "public.ecr.aws", "nops/vpa", "0.1.0", ""},
		{"public.ecr.aws/nops/vpa:0.1.0@" + one, "pinned, the tag for people", "public.ecr.aws", "nops/vpa", "0.1.0", one},
		{"public.ecr.aws/nops/vpa@" + one, "", "public.ecr.aws", "nops/vpa", "", one},
		{"public.ecr.aws/nops/vpa", "no tag is made up", "public.ecr.aws", "nops/vpa", "", ""},
		{"127.0.0.1:5000/x", "a port is no tag", "127.0.0.1:5000", "x", "", ""},
		{"[::1]:5000/x:1", "", "[::1]:5000", "x", "1", ""},
		{"localhost/x", "localhost is a host", "localhost", "x", "", ""},
		{"localhost:5000", "without a slash there is no host", "docker.io", "library/localhost", "5000", ""},
		{"REGISTRY/x:1", "capitals are in no repository, so that it is a host to every runtime", "REGISTRY", "x", "1", ""},
		{"nginx", "as every runtime reads it", "docker.io", "library/nginx", "", ""},
		{"nginx:1", "", "docker.io", "library/nginx", "1", ""},
		{"bitnami/nginx", "", "docker.io", "bitnami/nginx", "", ""},
		{"docker.io/nginx", "the same image as nginx: one name for a policy", "docker.io", "library/nginx", "", ""},
		{"index.docker.io/nginx", "the same", "docker.io", "library/nginx", "", ""},
		{"index.docker.io/library/nginx", "the same", "docker.io", "library/nginx", "", ""},
		{"x.example/a__b/c-_d", "", "", "", "", ""},
		{"x.example/a__b/c--d.e_f:A.b-C_1", "", "x.example", "a__b/c--d.e_f", "A.b-C_1", ""},
		{"x.example/" + long, "255 characters are what runtimes take", "x.example", long, "", ""},
		{"x.example/a" + long, "and no more", "", "", "", ""},
		{"x.example/a:" + strings.Repeat("t", 128), "", "x.example", "a", strings.Repeat("t", 128), ""},
		{"x.example/a:" + strings.Repeat("t", 129), "", "", "", "", ""},
		{strings.Repeat("a.", 600) + "example/x", "longer than anybody needs", "", "", "", ""},
		{"", "", "", "", "", ""},
		{" public.ecr.aws/nops/vpa", "what is between quotes counts", "", "", "", ""},
		{"public.ecr.aws/nops/vpa\n", "a line's end is no part of a tag", "", "", "", ""},
		{"https://public.ecr.aws/nops/vpa", "", "", "", "", ""},
		{"oci://public.ecr.aws/nops/vpa", "", "", "", "", ""},
		{"public.ecr.aws/nops/VPA", "", "", "", "", ""},
		{"public.ecr.aws/nops//vpa", "", "", "", "", ""},
		{"public.ecr.aws/nops/../vpa", "no way up", "", "", "", ""},
		{"public.ecr.aws/nops/vpa/", "", "", "", "", ""},
		{"/nops/vpa", "", "", "", "", ""},
		{"public.ecr.aws/", "", "", "", "", ""},
		{"public.ecr.aws/nops/vpa:", "", "", "", "", ""},
		{"public.ecr.aws/nops/vpa:-x", "", "", "", "", ""},
		{"public.ecr.aws/nops/vpa@", "", "", "", "", ""},
		{"public.ecr.aws/nops/vpa@sha256:11", "", "", "", "", ""},
		{"public.ecr.aws/nops/vpa@" + strings.Repeat("A", 71), "", "", "", "", ""},
		{"public.ecr.aws/nops/vpa@" + strings.ToUpper(one), "digests are compared as text", "", "", "", ""},
		{"public.ecr.aws/nops/vpa@sha512:" + strings.Repeat("1", 128), "one kind of digest everywhere", "", "", "", ""},
		{"public.ecr.aws/nops/vpa@" + one + "@" + two, "", "", "", "", ""},
		{"user@public.ecr.aws/nops/vpa", "", "", "", "", ""},
		{"public.ecr.aws:x/nops/vpa", "", "", "", "", ""},
		{"-x.example/nops/vpa", "", "", "", "", ""},
		{"publíc.ecr.aws/nops/vpa", "look-alikes are not names", "", "", "", ""},
		{"a..b/x", "", "", "", "", ""},
		{"a/b\x00c", "", "", "", "", ""},
	} {
		r, err := ref.Parse(tt.in)
		want := ref.Reference{Registry: tt.registry, Repository: tt.repository, Tag: tt.tag, Digest: tt.digest}
		if (err == nil) != (tt.registry != "") || r != want {
			t.Errorf("%.80q (%s): %+v, %v; want %+v", tt.in, tt.reason, r, err, want)
		}
		var parse *ref.ParseError
		if err != nil && (!errors.As(err, &parse) || parse.Hint() == "" || len(err.Error()) > 2000) {
			t.Errorf("%.80q: %v", tt.in, err)
		}
	}
}

func TestOrLatest(t *testing.T) {
	for in, want := range map[string]string{
		"x.example/a": "x.example/a:latest", "x.example/a:1": "x.example/a:1", "x.example/a@" + one: "x.example/a@" + one,
	} {
		if have := parse(t, in).OrLatest().String(); have != want {
			t.Errorf("%s: %s", in, have)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"public.ecr.aws/nops/vpa:0.1.0@" + one, "nginx", "docker.io/nginx", "[::1]:5000/x:1", "localhost:5000/a/b", "A/b", "index.docker.io/x@" + two, "a@b@c", "://", "x.example/" + strings.Repeat("a", 256), "c." + strings.Repeat("\x8d", 1000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ref.Parse(s)
		if err != nil {
			if r != (ref.Reference{}) || len(err.Error()) > 2000 {
				t.Fatalf("%q: %+v with %v", s, r, err)
			}
			return
		}
		again, err := ref.Parse(r.String())
		if err != nil || again != r {
			t.Fatalf("%q: %+v is read again as %+v, %v", s, r, again, err)
		}
		if r.Registry == "" || r.Repository == "" || len(s) > 1024 || len(r.Repository) > 255 || len(r.Tag) > 128 || r.Digest != "" && !ref.IsDigest(r.Digest) {
			t.Fatalf("%q: %+v", s, r)
		}
		if strings.ContainsAny(r.String(), " \n\t\\\"'$;&|<>") {
			t.Fatalf("%q: %+v holds what no name has", s, r)
		}
		for _, m := range []ref.Mirrors{nil, {{From: "docker.io", To: "m.example/hub"}}, {{From: "public.ecr.aws", To: "m.example"}}} {
			at := m.Locate(r)
			if back, err := ref.Parse(at.String()); err != nil && len(at.Repository) <= 255 || err == nil && back != at {
				t.Fatalf("%q is located at %q: %+v, %v", s, at, back, err)
			}
		}
	})
}

func TestMirrors(t *testing.T) {
	mirrors := func(pairs ...string) ref.Mirrors {
		m, err := ref.ParseMirrors(pairs)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, tt := range []struct {
		name, reason    string
		mirrors         ref.Mirrors
		canonical, from string // from: where it is; empty where it is not mirrored
	}{
		{"a registry", "", mirrors("public.ecr.aws=m.example"), "public.ecr.aws/nops/vpa:1", "m.example/nops/vpa:1"},
		{"below a path", "", mirrors("public.ecr.aws=m.example/ecr"), "public.ecr.aws/nops/vpa:1@" + one, "m.example/ecr/nops/vpa:1@" + one},
		{"a part of a registry", "", mirrors("public.ecr.aws/nops=m.example/nops"), "public.ecr.aws/nops/vpa", "m.example/nops/vpa"},
		{"the other part of it", "", mirrors("public.ecr.aws/nops=m.example/nops"), "public.ecr.aws/others/vpa", ""},
		{"another registry that begins so", "public.ecr.aws.evil is not public.ecr.aws", mirrors("public.ecr.aws=m.example"), "public.ecr.aws.evil/nops/vpa", ""},
		{"another repository that begins so", "", mirrors("public.ecr.aws/nops=m.example/nops"), "public.ecr.aws/nops-evil/vpa", ""},
		{"a port", "a registry on another port is another", mirrors("x.example=m.example"), "x.example:5000/vpa", ""},
		{"one image", "", mirrors("public.ecr.aws/nops/vpa=m.example/one"), "public.ecr.aws/nops/vpa:1", "m.example/one:1"},
		{"slashes at the end", "", mirrors("public.ecr.aws/=m.example/"), "public.ecr.aws/nops/vpa", "m.example/nops/vpa"},
		{"Docker Hub", "its names have one spelling", mirrors("docker.io=m.example/hub"), "docker.io/library/nginx:1", "m.example/hub/library/nginx:1"},
		{"the first counts", "", mirrors("public.ecr.aws/nops=a.example", "public.ecr.aws=b.example"), "public.ecr.aws/nops/vpa", "a.example/vpa"},
		{"the second", "", mirrors("public.ecr.aws/nops=a.example", "public.ecr.aws=b.example"), "public.ecr.aws/others/vpa", "b.example/others/vpa"},
		{"nothing left", "a mirror cannot hold an image without a name", mirrors("public.ecr.aws/nops/vpa=m.example"), "public.ecr.aws/nops/vpa", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.from
			if want == "" {
				want = tt.canonical
			}
			canonical := parse(t, tt.canonical)
			at := tt.mirrors.Locate(canonical)
			if at != parse(t, want) {
				t.Errorf("it is looked for at %s, not %s (%s)", at, want, tt.reason)
			}
			if back := tt.mirrors.Canonical(at); back != canonical {
				t.Errorf("from there it is known as %s, not %s", back, canonical)
			}
		})
	}
	// What begins like a mirror is not on it.
	if r := mirrors("public.ecr.aws=m.example/nops").Canonical(parse(t, "m.example/nops-evil/vpa")); r.Name() != "m.example/nops-evil/vpa" {
		t.Errorf("m.example/nops-evil passes for %s", r)
	}
	if r := mirrors("docker.io=m.example").Canonical(parse(t, "m.example/nginx")); r.Name() != "docker.io/library/nginx" {
		t.Errorf("a policy would not know %s", r)
	}
	for _, given := range []string{"", "public.ecr.aws", "=m", "public.ecr.aws=", "https://public.ecr.aws=m.example", "public.ecr.aws=https://m.example", "public.ecr.aws=m.example/UP", "a b=c", "public.ecr.aws=m.example/x:1"} {
		if m, err := ref.ParseMirrors([]string{given}); !errors.Is(err, ref.ErrMirror) {
			t.Errorf("%q: %v, %v", given, m, err)
		}
	}
	if _, err := ref.ParseMirrors([]string{"a.example=m.example", "b.example=m.example/"}); !errors.Is(err, ref.ErrShared) {
		t.Errorf("two registries share a mirror: which rule is about m.example/x? %v", err)
	}
	if _, err := ref.ParseMirrors([]string{"a.example=m.example", "a.example=m.example"}); err != nil {
		t.Errorf("the same twice: %v", err)
	}
}

func facts(t testing.TB) ref.Facts {
	r := parse(t, "public.ecr.aws/nops/vpa:0.1.0")
	return ref.Facts{
		Given: r, Canonical: r, Digest: one, Basis: ref.ByPolicy, Outcome: string(verdict.Verified), Method: "aws-signer",
		Identity: "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops", SignedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func TestAdmit(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		change       func(*ref.Facts)
		ok           bool
	}{
		{"verified", "", func(*ref.Facts) {}, true},
		{"asked for by this digest", "", func(f *ref.Facts) { f.Given = f.Given.At(one) }, true},
		{"asked for by another digest", "the registry answered something else", func(f *ref.Facts) { f.Given = f.Given.At(two) }, false},
		{"no digest", "nothing is pinned", func(f *ref.Facts) { f.Digest = "" }, false},
		{"half a digest", "", func(f *ref.Facts) { f.Digest = one[:20] }, false},
		{"no name", "", func(f *ref.Facts) { f.Given = ref.Reference{} }, false},
		{"no canonical name", "", func(f *ref.Facts) { f.Canonical = ref.Reference{} }, false},
		{"no basis", "", func(f *ref.Facts) { f.Basis = "" }, false},
		{"made-up basis", "", func(f *ref.Facts) { f.Basis = "trust-me" }, false},
		{"by exception, unsigned", "", func(f *ref.Facts) { f.Basis, f.Outcome = ref.ByException, string(verdict.Unsigned) }, true},
		{"by warning, revoked", "", func(f *ref.Facts) { f.Basis, f.Outcome = ref.ByWarning, string(verdict.Revoked) }, true},
		{"a warning, and yet verified", "what was warned of is not verified", func(f *ref.Facts) { f.Basis = ref.ByWarning }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := facts(t)
			tt.change(&f)
			a, err := ref.Admit(seal.Grant(), f)
			if (err == nil) != tt.ok || a.Valid() != tt.ok {
				t.Errorf("%v, %v (%s)", a, err, tt.reason)
			}
			if tt.ok && (a.Pinned().Digest != f.Digest || a.Digest() != f.Digest || !strings.HasSuffix(a.String(), "@"+one)) {
				t.Errorf("%v is not pinned", a)
			}
		})
	}
	outcomes := 0
	for _, o := range append(verdict.Outcomes(), "", "ok", "Verified") {
		f := facts(t)
		f.Outcome = string(o)
		if a, err := ref.Admit(seal.Grant(), f); (err == nil) != o.OK() || a.Valid() != o.OK() {
			t.Errorf("outcome %q by policy: %v, %v", o, a, err)
		}
		outcomes++
	}
	if outcomes < 9 {
		t.Errorf("only %d outcomes", outcomes)
	}
}

// TestNobodyElseAdmits: a value without verification is none, and there is no way to one: not from JSON, not with a token
// that was not granted, and not for code outside pkg/verify, which the compiler sees to.
func TestNobodyElseAdmits(t *testing.T) {
	var zero ref.Admitted
	if zero.Valid() || zero.String() != "not admitted" || zero.Pinned().Digest != "" {
		t.Errorf("a zero value is admitted: %v", zero)
	}
	a, err := ref.Admit(seal.Grant(), facts(t))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"reference":"public.ecr.aws/nops/vpa:0.1.0","digest":"` + one + `","basis":"policy","outcome":"verified","method":"aws-signer","identity":"arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops","signed_at":"2026-01-02T03:04:05Z"}`
	if string(data) != want {
		t.Errorf("%s", data)
	}
	for _, text := range []string{want, `{"facts":` + want + `}`, `{"Facts":{"Digest":"` + one + `"}}`} {
		var back ref.Admitted
		if err := json.Unmarshal([]byte(text), &back); err == nil && back.Valid() { //nolint:staticcheck // SA9005: that nothing comes of it is what is tested
			t.Errorf("%s was admitted by reading it", text)
		}
	}
	if a, err := ref.Admit(seal.Token{}, facts(t)); err == nil || a.Valid() {
		t.Errorf("a token that nobody granted opens: %v", a)
	}

	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/nopsctl/nopsctl"
	for _, tt := range []struct{ name, body, says string }{
		{"allowed", `var _ = ref.Admitted{}.Valid()`, ""},
		{"a literal", `var _ = ref.Admitted{facts: ref.Facts{}}`, "facts"},
		{"a bare struct for a token", `var _, _ = ref.Admit(struct{}{}, ref.Facts{})`, "cannot use struct{}{}"},
		{"a struct that looks the same", `var _, _ = ref.Admit(struct{ granted bool }{true}, ref.Facts{})`, "cannot use struct"},
		{"nothing for a token", `var _, _ = ref.Admit(nil, ref.Facts{})`, "cannot use nil"},
		{"the seal", "import _ \"" + module + "/pkg/verify/internal/seal\"\nvar _ ref.Admitted", "internal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			source, overlay := filepath.Join(dir, "planted.go"), filepath.Join(dir, "overlay.json")
			imports, body := "import \""+module+"/pkg/verify/ref\"\n", tt.body
			if err := os.WriteFile(source, []byte("package planted\n"+imports+body+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			list, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, "pkg", "planted", "planted.go"): source}})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(overlay, list, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "./pkg/planted")
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			if (err == nil) != (tt.says == "") || !strings.Contains(string(out), tt.says) {
				t.Errorf("%v: %s", err, fmt.Sprintf("%.2000s", out))
			}
		})
	}
}

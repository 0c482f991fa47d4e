package lock_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/pkg/verify/internal/seal"
	"github.com/nopsctl/nopsctl/pkg/verify/lock"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

func day(n int) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Date(2026, 1, n, 12, 0, 0, 0, time.UTC)
}

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// image is an admitted reference, signed on a day of January; 0 is without a time.
func image(t *testing.T, reference string, n, signed int) ref.Admitted {
	t.Helper()
	r, err := ref.Parse(reference)
	if err != nil {
		t.Fatal(err)
	}
	f := ref.Facts{
		Given: r, Canonical: r, Digest: digest(n), MediaType: "application/vnd.oci.image.index.v1+json", Basis: ref.ByPolicy, Outcome: string(verdict.Verified),
		Method: "aws-signer", Identity: "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops", SignedAt: day(signed),
	}
	a, err := ref.Admit(seal.Grant(), f)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func locked(t *testing.T, images ...ref.Admitted) lock.Lock {
	t.Helper()
	l, err := lock.New(images, lock.Made{Written: day(20), Policy: strings.Repeat("a", 64), ChartName: "kubernetes-agent", ChartVersion: "0.1.0"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const written = `# Written by nopsctl: what was installed, to the byte. nopsctl install --lock FILE installs exactly this.
apiVersion: nopsctl.io/v1
chart:
  name: kubernetes-agent
  version: 0.1.0
images:
- basis: policy
  digest: sha256:0000000000000000000000000000000000000000000000000000000000000002
  identity: arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops
  mediaType: application/vnd.oci.image.index.v1+json
  method: aws-signer
  name: public.ecr.aws/nops/karpenops
  outcome: verified
  reference: public.ecr.aws/nops/karpenops:1.0.0
- basis: policy
  digest: sha256:0000000000000000000000000000000000000000000000000000000000000001
  identity: arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops
  mediaType: application/vnd.oci.image.index.v1+json
  method: aws-signer
  name: public.ecr.aws/nops/vpa
  outcome: verified
  reference: public.ecr.aws/nops/vpa:0.1.0
  signedAt: "2026-01-03T12:00:00Z"
kind: ImageLock
policy: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
written: "2026-01-20T12:00:00Z"
`

func TestWrite(t *testing.T) {
	vpa, karp := image(t, "public.ecr.aws/nops/vpa:0.1.0", 1, 3), image(t, "public.ecr.aws/nops/karpenops:1.0.0", 2, 0)
	for _, order := range [][]ref.Admitted{{vpa, karp}, {karp, vpa}, {vpa, karp, vpa}} {
		data, err := locked(t, order...).Write()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(written, string(data)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	l, err := lock.Read([]byte(written))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(locked(t, vpa, karp), l); diff != "" {
		t.Errorf("what was written is not what is read: %s", diff)
	}
}

func TestNewTakesOnlyWhatWasAdmitted(t *testing.T) {
	if _, err := lock.New([]ref.Admitted{{}}, lock.Made{}); err == nil {
		t.Error("a zero reference was locked")
	}
	a, b := image(t, "x.example/a:1", 1, 1), image(t, "x.example/a:1", 2, 1)
	if _, err := lock.New([]ref.Admitted{a, b}, lock.Made{}); err == nil {
		t.Error("one reference was locked with two digests")
	}
}

func TestReadIsStrict(t *testing.T) {
	replace := func(old, with string) string {
		if !strings.Contains(written, old) {
			t.Fatalf("the document has no %q", old)
		}
		return strings.Replace(written, old, with, 1)
	}
	for _, tt := range []struct{ name, reason, document, says string }{
		{"empty", "no lock is not an empty lock", "", "no ImageLock"},
		{"a list", "", "[]", "no ImageLock"},
		{"not YAML", "", "images: [", "not YAML"},
		{"another kind", "a policy is no lock", replace("kind: ImageLock", "kind: ImagePolicy"), "ImagePolicy"},
		{"another version", "a later one may mean other things", replace("nopsctl.io/v1", "nopsctl.io/v2"), "nopsctl.io/v2"},
		{"unknown field", "it may restrict", replace("policy: a", "until: 2027\npolicy: a"), "until"},
		{"unknown field of an entry", "", replace("  outcome: verified", "  outcome: verified\n  platform: x"), "platform"},
		{"unknown field of the chart", "", replace("  version: 0.1.0", "  version: 0.1.0\n  digest: x"), "chart.digest"},
		{"another spelling", "encoding/json would take it, and of two the last", replace("images:", "Images: []\nimages:"), "Images"},
		{"twice", "", replace("kind: ImageLock", "kind: ImageLock\nkind: ImageLock"), "not YAML"},
		{"two documents", "what is in the second is read by nobody", written + "---\n" + written, "more than one document"},
		{"two documents, the first empty", "", "---\n---\n" + written, "more than one document"},
		{"no digest", "", replace(digest(1), "sha256:1"), "no digest"},
		{"no reference", "", replace("reference: public.ecr.aws/nops/vpa:0.1.0", "reference: '::'"), "no reference"},
		{"name with a tag", "the guard would never find it again", replace("name: public.ecr.aws/nops/vpa", "name: public.ecr.aws/nops/vpa:1"), "no canonical name"},
		{"short name", "the guard would never find it again", replace("name: public.ecr.aws/nops/vpa", "name: vpa"), "no canonical name"},
		{"other digest than asked for", "", replace("nops/vpa:0.1.0", "nops/vpa@"+digest(9)), "another digest"},
		{"unknown basis", "", replace("basis: policy", "basis: trust-me"), "basis"},
		{"unknown outcome", "", replace("outcome: verified", "outcome: fine"), "outcome"},
		{"policy without success", "unknown is never success", replace("outcome: verified", "outcome: could-not-check"), "basis policy"},
		{"success without policy", "", replace("basis: policy", "basis: warning"), "basis warning"},
		{"contradiction", "", replace("reference: public.ecr.aws/nops/karpenops:1.0.0", "reference: public.ecr.aws/nops/vpa:0.1.0"), "two digests"},
		{"no time", "", replace(`"2026-01-03T12:00:00Z"`, `"yesterday"`), "parsing time"},
		{"a bomb", "aliases multiply", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" + "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" + "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" + "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n" + "f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n" + "g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n", ""},
		{"too large", "", "#" + strings.Repeat("x", 1<<20) + "\n" + written, "bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := lock.Read([]byte(tt.document))
			if err == nil {
				t.Fatalf("read without a word (%s)", tt.reason)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q does not say %q", err, tt.says)
			}
		})
	}
	for name, document := range map[string]string{"a separator before": "---\n" + written, "comments and a separator before": "# mine\n---\n" + written} {
		if _, err := lock.Read([]byte(document)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDowngrades(t *testing.T) {
	const vpa = "public.ecr.aws/nops/vpa"
	chart := func(n, signed int) lock.Lock {
		l, err := lock.New(nil, lock.Made{Chart: image(t, "public.ecr.aws/nops/kubernetes-agent:1", n, signed)})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, tt := range []struct {
		name, reason string
		old, now     lock.Lock
		want         []string // in the messages
	}{
		{"upgrade", "", locked(t, image(t, vpa+":1", 1, 3)), locked(t, image(t, vpa+":2", 2, 4)), nil},
		{"old version under a new tag", "the attack", locked(t, image(t, vpa+":1", 1, 3)), locked(t, image(t, vpa+":2", 2, 2)), []string{"was signed 2026-01-02T12:00:00Z, before"}},
		{"the tag moved back", "the attack", locked(t, image(t, vpa+":1", 1, 3)), locked(t, image(t, vpa+":1", 2, 2)), []string{"before what was accepted last: 2026-01-03"}},
		{"signed at the same moment", "one release, several architectures or builds", locked(t, image(t, vpa+":1", 1, 3)), locked(t, image(t, vpa+":1", 2, 3)), nil},
		{"same digest, older time", "the same bytes: two signatures, of which another was found first", locked(t, image(t, vpa+":1", 1, 3)), locked(t, image(t, vpa+":1", 1, 2)), nil},
		{"same digest, no time", "the same bytes", locked(t, image(t, vpa+":1", 1, 3)), locked(t, image(t, vpa+":1", 1, 0)), nil},
		{"the time was shed", "else an attacker sheds it", locked(t, image(t, vpa+":1", 1, 3)), locked(t, image(t, vpa+":2", 2, 0)), []string{"no signature says when"}},
		{"never had one", "nothing to compare with", locked(t, image(t, vpa+":1", 1, 0)), locked(t, image(t, vpa+":2", 2, 0)), nil},
		{"has one now", "", locked(t, image(t, vpa+":1", 1, 0)), locked(t, image(t, vpa+":2", 2, 1)), nil},
		{"another name", "", locked(t, image(t, vpa+":1", 1, 3)), locked(t, image(t, "public.ecr.aws/nops/vpa-evil:1", 2, 1)), nil},
		{"nothing before", "the first installation", lock.Lock{}, locked(t, image(t, vpa+":1", 1, 3)), nil},
		{"two of a name, one is upgraded", "the other is newer than both, and stays", locked(t, image(t, vpa+":1", 1, 3), image(t, vpa+":9", 9, 9)), locked(t, image(t, vpa+":2", 2, 4), image(t, vpa+":9", 9, 9)), nil},
		{"two of a name, the newer is replaced", "held against what it replaces", locked(t, image(t, vpa+":1", 1, 3), image(t, vpa+":9", 9, 9)), locked(t, image(t, vpa+":1", 1, 3), image(t, vpa+":10", 10, 8)), []string{"vpa:10 was signed"}},
		{"two of a name, both upgraded", "newest against newest", locked(t, image(t, vpa+":1", 1, 3), image(t, vpa+":9", 9, 9)), locked(t, image(t, vpa+":2", 2, 4), image(t, vpa+":10", 10, 10)), nil},
		{"two of a name become an old one", "held against the newest", locked(t, image(t, vpa+":1", 1, 3), image(t, vpa+":9", 9, 9)), locked(t, image(t, vpa+":2", 2, 4)), []string{"2026-01-09"}},
		{"an old one beside what stays", "whoever adds it has no reason for older than all", locked(t, image(t, vpa+":1", 1, 3), image(t, vpa+":9", 9, 9)), locked(t, image(t, vpa+":1", 1, 3), image(t, vpa+":9", 9, 9), image(t, vpa+":0", 20, 1)), []string{"vpa:0 was signed"}},
		{"the chart", "guarded as the images are", chart(1, 3), chart(2, 2), []string{"kubernetes-agent:1 was signed"}},
		{"the chart, upgraded", "", chart(1, 3), chart(2, 4), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := lock.Downgrades(tt.old, tt.now)
			if len(found) != len(tt.want) {
				t.Fatalf("%d findings, want %d (%s): %+v", len(found), len(tt.want), tt.reason, found)
			}
			for i, f := range found {
				if f.Reason != verdict.Downgrade || f.Outcome != verdict.Revoked || !strings.Contains(f.Message, tt.want[i]) {
					t.Errorf("%+v does not say %q", f, tt.want[i])
				}
			}
		})
	}
}

func TestMovedAndDifferences(t *testing.T) {
	a1, a2, b, c := image(t, "x.example/a:1", 1, 1), image(t, "x.example/a:1", 2, 1), image(t, "x.example/b:1", 3, 1), image(t, "x.example/c:1", 4, 1)
	for _, tt := range []struct {
		name               string
		old, now           lock.Lock
		moved, differences []string
	}{
		{"the same", locked(t, a1, b), locked(t, b, a1), nil, nil},
		{"moved", locked(t, a1, b), locked(t, a2, b), []string{"x.example/a:1 is " + digest(2)}, []string{"x.example/a:1 is " + digest(2)}},
		{"not in the lock", locked(t, a1), locked(t, a1, c), nil, []string{"x.example/c:1 is not in the lock"}},
		{"in the lock only", locked(t, a1, b), locked(t, a1), nil, nil},
		{"an empty lock", lock.Lock{}, locked(t, a1), nil, []string{"x.example/a:1 is not in the lock"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for what, pair := range map[string]struct {
				have []lock.Change
				want []string
			}{"moved": {lock.Moved(tt.old, tt.now), tt.moved}, "differences": {lock.Differences(tt.old, tt.now), tt.differences}} {
				if len(pair.have) != len(pair.want) {
					t.Errorf("%s: %v, want %v", what, pair.have, pair.want)
					continue
				}
				for i, c := range pair.have {
					if !strings.Contains(c.String(), pair.want[i]) {
						t.Errorf("%s: %q does not say %q", what, c, pair.want[i])
					}
				}
			}
		})
	}
}

// TestMirrors: the guard knows images by their canonical names, wherever they came from.
func TestMirrors(t *testing.T) {
	given, err := ref.Parse("mirror.example/nops/vpa:2")
	if err != nil {
		t.Fatal(err)
	}
	canonical, err := ref.Parse("public.ecr.aws/nops/vpa:2")
	if err != nil {
		t.Fatal(err)
	}
	a, err := ref.Admit(seal.Grant(), ref.Facts{Given: given, Canonical: canonical, Digest: digest(2), Basis: ref.ByPolicy, Outcome: string(verdict.Verified), SignedAt: day(2)})
	if err != nil {
		t.Fatal(err)
	}
	if found := lock.Downgrades(locked(t, image(t, "public.ecr.aws/nops/vpa:1", 1, 3)), locked(t, a)); len(found) != 1 {
		t.Errorf("an old image passes by way of a mirror: %v", found)
	}
	if found := lock.Differences(locked(t, image(t, "public.ecr.aws/nops/vpa:2", 2, 2)), locked(t, a)); len(found) != 0 {
		t.Errorf("the same bytes from a mirror differ: %v", found)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(written))
	f.Add([]byte(strings.Replace(written, "chart:", "chart:\n  artifact: {name: x.example/c, reference: 'x.example/c:1', digest: '"+digest(7)+"', basis: warning}", 1)))
	f.Add([]byte("apiVersion: nopsctl.io/v1\nkind: ImageLock\nimages: null\nwritten: 2026-01-02T00:00:00+02:00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := lock.Read(data)
		if err != nil {
			return
		}
		again, err := l.Write()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back, err := lock.Read(again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, again)
		}
		if diff := cmp.Diff(l, back); diff != "" {
			t.Fatalf("%s", diff)
		}
		if third, err := back.Write(); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("not the same bytes: %v", err)
		}
		for _, e := range l.Images {
			if !ref.IsDigest(e.Digest) {
				t.Fatalf("%+v", e)
			}
		}
		if found := lock.Downgrades(l, l); len(found) != 0 {
			t.Fatalf("a lock is a downgrade of itself: %v", found)
		}
		if found := lock.Differences(l, l); len(found) != 0 {
			t.Fatalf("a lock differs from itself: %v", found)
		}
	})
}

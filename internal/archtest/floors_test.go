package archtest

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/semver"
)

// TestFloors holds the versions that are compiled into nopsctl against those below which there are known holes. It asks the go
// command what it would link: go.mod's wish is not the whole story, and a replaced module has no version at all.
func TestFloors(t *testing.T) {
	floors := []struct {
		module, least, holes string
	}{
		{"github.com/notaryproject/notation-go", "v1.3.0", "CVE-2023-25656, CVE-2023-33957, CVE-2023-33958, CVE-2023-33959, CVE-2024-51491, CVE-2024-56138"},
		{"github.com/notaryproject/notation-core-go", "v1.3.0", "the same, as far as they are its own"},
		{"github.com/sigstore/cosign/v2", "v2.6.3", "CVE-2022-23649, CVE-2022-35929, CVE-2022-36056, CVE-2023-46737, CVE-2024-29902, CVE-2024-29903, CVE-2026-22703, CVE-2026-39395"},
		{"github.com/sigstore/sigstore-go", "v1.2.1", "CVE-2024-45395, CVE-2026-54787"},
		{"github.com/sigstore/timestamp-authority/v2", "v2.0.6", "CVE-2026-39984"},
		{"oras.land/oras-go/v2", "v2.6.2", "CVE-2026-48978, CVE-2026-50163"},
		{"helm.sh/helm/v3", "v3.20.2", "CVE-2026-35206"},
	}
	linked := versions(t, filepath.Join("..", ".."), "./cmd/nopsctl")
	if len(linked) < 100 {
		t.Errorf("it links %d modules; this proves nothing", len(linked))
	}
	for _, f := range floors {
		switch got, there := linked[f.module]; {
		case !there:
			t.Errorf("it does not link %s: this proves nothing any more", f.module)
		case !semver.IsValid(got) || semver.Compare(got, f.least) < 0:
			t.Errorf("it links %s %s; at least %s, for %s", f.module, got, f.least, f.holes)
		}
	}
}

// versions are those of the modules that packages are made of. A replaced module has none.
func versions(t *testing.T, dir, packages string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}} {{if .Replace}}replaced{{else}}{{.Version}}{{end}}{{end}}{{end}}`, packages)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v\n%s", dir, err, stderr.String())
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if module, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			found[module] = version
		}
	}
	return found
}

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocs holds the generated pages of docs/ against the tables in the code; -update rewrites them.
func TestDocs(t *testing.T) {
	for name, want := range map[string]string{"exit-codes.md": exitCodesPage(), "checks.md": checksPage()} {
		path := filepath.Join("..", "..", "docs", name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v (run with -update)", err)
		}
		if diff := cmp.Diff(want, string(have)); diff != "" {
			t.Errorf("docs/%s (-want +got; go test -update rewrites it):\n%s", name, diff)
		}
	}
}

func exitCodesPage() string {
	var b strings.Builder
	b.WriteString("# Exit codes\n\nGenerated from `internal/cli/exit.go`; `nopsctl help exit-codes` says the same.\n\n| code | meaning | |\n|---|---|---|\n")
	for _, e := range exitCodes() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.Code, e.Meaning, e.About)
	}
	return b.String()
}

func checksPage() string {
	var b strings.Builder
	b.WriteString("# Checks and warnings\n\nGenerated from the tables in the code; `nopsctl explain ID` says the same, offline.\n\n| ID | where | stage | what | about | what to do |\n|---|---|---|---|---|---|\n")
	for _, e := range Explanations() {
		cell := strings.NewReplacer("|", `\|`, "\n", " ")
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", e.ID, e.Where, e.Stage, cell.Replace(e.Title), cell.Replace(e.About), cell.Replace(e.Hint))
	}
	return b.String()
}

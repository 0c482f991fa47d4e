package verify

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestAttacksAreTested holds docs/verification-attacks.md against the code: every test that it names exists in the package that it
// names, every attack has one, and no attack gets lost.
func TestAttacksAreTested(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "verification-attacks.md"))
	if err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{"verify": ".", "install": "../install", "cli": "../../internal/cli", "archtest": "../../internal/archtest"}
	for _, name := range []string{"notary", "cosign", "oci", "policy", "lock", "ref", "extract", "mirror", "verdict"} {
		dirs[name] = name
	}
	tests := map[string]map[string]bool{}
	for name, dir := range dirs {
		tests[name] = testsIn(t, filepath.FromSlash(dir))
	}
	named := regexp.MustCompile("`([a-z]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	attacks, mentions, used := 0, 0, map[string]bool{}
	for line := range strings.Lines(string(data)) {
		found := named.FindAllStringSubmatch(line, -1)
		for _, m := range found {
			mentions++
			used[m[1]] = true
			if !tests[m[1]][m[2]] {
				t.Errorf("there is no test %s in package %s:\n%s", m[2], m[1], line)
			}
		}
		if cells := strings.Split(line, " | "); strings.HasPrefix(line, "| ") && len(cells) == 3 && !strings.HasPrefix(line, "| attack |") && !strings.HasPrefix(line, "| library |") {
			attacks++
			if !strings.Contains(cells[2], "`") || len(found) == 0 {
				t.Errorf("nothing shows what is done about this:\n%s", line)
			}
		}
	}
	cves := regexp.MustCompile(`(?:CVE-\d{4}|GHSA|GO-\d{4})-[0-9a-z-]+\b`).FindAllString(string(data), -1)
	slices.Sort(cves)
	if cves = slices.Compact(cves); attacks < 60 || mentions < 150 || len(cves) != 28 || len(used) != len(dirs) {
		t.Errorf("%d attacks, %d tests named, of packages %v, and %d vulnerabilities, expected 28: %v", attacks, mentions, slices.Sorted(maps.Keys(used)), len(cves), cves)
	}
	if bare := regexp.MustCompile("`Test[A-Z][A-Za-z]*`").FindAllString(string(data), -1); !slices.Equal(bare, []string{"`TestTrap`"}) {
		t.Errorf("named without a package: %v", bare)
	}
}

// testsIn are the tests of the package in a directory: functions that the go command would run.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Type.Params.NumFields() != 1 {
				continue
			}
			pointer, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr)
			if !ok {
				continue
			}
			kind, ok := pointer.X.(*ast.SelectorExpr)
			if ok && (strings.HasPrefix(fn.Name.Name, "Test") && kind.Sel.Name == "T" || strings.HasPrefix(fn.Name.Name, "Fuzz") && kind.Sel.Name == "F") {
				found[fn.Name.Name] = true
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no tests in %s", dir)
	}
	return found
}

package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "github.com/nopsctl/nopsctl"
	agents = root + "/agents"
	lab    = root + "/lab"
)

// pkg is what the law needs to know about a package of ours.
type pkg struct {
	ImportPath string
	Name       string
	Dir        string
	Standard   bool
	Imports    []string
	GoFiles    []string
}

// A rule forbids imports to some packages.
type rule struct {
	name string
	// to says whether the rule binds the package with this import path.
	to func(path string) bool
	// closure also looks through our own packages that the bound one imports; otherwise only its own imports count.
	closure bool
	// forbids says whether the import is against the law for the bound package.
	forbids func(from, imported string) bool
	reason  string
}

func at(paths ...string) func(string) bool {
	return func(p string) bool {
		for _, want := range paths {
			if p == root+"/"+want {
				return true
			}
		}
		return false
	}
}

func under(prefix string) func(string) bool {
	return func(p string) bool { return within(p, prefix) }
}

func within(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

func anyOf(prefixes ...string) func(from, imported string) bool {
	return func(_, imported string) bool {
		for _, p := range prefixes {
			if within(imported, p) {
				return true
			}
		}
		return false
	}
}

func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

var (
	helm      = []string{"helm.sh/helm"}
	kube      = []string{"k8s.io", "sigs.k8s.io"}
	cobra     = []string{"github.com/spf13/cobra"}
	bubbletea = []string{"github.com/charmbracelet/bubbletea", "charm.land/bubbletea"}
)

func join(lists ...[]string) []string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func laws() []rule {
	return []rule{
		{
			name: "leaves import the standard library only", to: at("pkg/event", "pkg/nopsapi", "pkg/connectivity/probe", "pkg/verify/ref"), closure: true,
			forbids: func(_, imported string) bool {
				return !standard(imported) && imported != root+"/pkg/verify/internal/seal"
			},
			reason: "every binary carries them: the contract, the spine, the probe; the seal is what keeps a reference from being admitted elsewhere",
		},
		{
			name: "the installer asks for admitted references, not for what admits them", to: under(root + "/pkg/install"), closure: true,
			forbids: anyOf("github.com/sigstore", "github.com/notaryproject", "github.com/google/go-containerregistry", root+"/pkg/verify/oci", root+"/pkg/verify/policy"),
			reason:  "verification and installation change for different reasons; the installer works with any Admission",
		},
		{
			name: "what the installer uses of verification stays light", to: at("pkg/verify/extract", "pkg/verify/lock", "pkg/verify/verdict"), closure: true,
			forbids: func(_, imported string) bool {
				return !standard(imported) && !within(imported, root+"/pkg/verify") && imported != "sigs.k8s.io/yaml"
			},
			reason: "the installer links them without linking what checks signatures",
		},
		{
			name: "references are admitted for tests by tests alone", to: func(p string) bool { return within(p, root) },
			forbids: anyOf(root + "/pkg/verify/ref/reftest"),
			reason:  "it admits what nobody verified",
		},
		{
			name: "what makes signatures stays out of what checks them", to: func(p string) bool {
				return within(p, root+"/cmd") || within(p, root+"/pkg") || within(p, root+"/internal/cli")
			}, closure: true,
			forbids: anyOf(root + "/internal/signing"),
			reason:  "it is for tests and for the lab",
		},
		{
			name: "the client of the contract stays light", to: at("pkg/nopsapi/nopsclient"), closure: true,
			forbids: anyOf(join(kube, helm)...),
			reason:  "it is in every agent image",
		},
		{
			name: "the engine has no face and no brand", to: under(root + "/pkg/install"), closure: true,
			forbids: anyOf(join(cobra, bubbletea, []string{root + "/pkg/nopsapi", root + "/embedded-chart", root + "/internal/cli", root + "/internal/ui", root + "/internal/iostreams"})...),
			reason:  "the chart comes in as fs.FS and events go out; another program can drive the engine",
		},
		{
			name: "siblings are composed in internal/cli", closure: true,
			to:      func(p string) bool { return within(p, root+"/pkg/verify") || within(p, root+"/pkg/connectivity") },
			forbids: anyOf(join(helm, cobra, bubbletea, []string{root + "/pkg/install"})...),
			reason:  "verification and connectivity must work without an installation",
		},
		{
			name: "verify and connectivity do not know each other", to: func(p string) bool { return within(p, root+"/pkg/verify") || within(p, root+"/pkg/connectivity") }, closure: true,
			forbids: func(from, imported string) bool {
				leaf := imported == root+"/pkg/verify/ref" || imported == root+"/pkg/connectivity/probe"
				cross := within(from, root+"/pkg/verify") && within(imported, root+"/pkg/connectivity") ||
					within(from, root+"/pkg/connectivity") && within(imported, root+"/pkg/verify")
				return cross && !leaf
			},
			reason: "siblings are composed in internal/cli; their leaves alone are shared",
		},
		{
			name: "Helm is one package's business",
			to: func(p string) bool {
				return within(p, root) && !within(p, root+"/pkg/install") && !within(p, lab)
			},
			forbids: anyOf(helm...),
			reason:  "its major version will change under us; one package then changes with it",
		},
		{
			name: "the terminal UI stays optional", to: func(p string) bool { return !within(p, root+"/internal/ui/tea") },
			forbids: anyOf(bubbletea...),
			reason:  "every fact it shows exists as plain lines and as JSON",
		},
		{
			name: "the local platform is a reference server, not a client", to: under(root + "/internal/platform"), closure: true,
			forbids: anyOf(join(kube, helm, []string{root + "/pkg/nopsapi/nopsclient", "testing"})...),
			reason:  "server and client meet only in tests",
		},
		{
			name: "agents are small things", to: under(agents), closure: true,
			forbids: func(_, imported string) bool {
				if imported == root+"/pkg/connectivity/probe" || imported == root+"/pkg/verify/ref" {
					return false
				}
				heavy := join(helm, cobra, []string{"github.com/charmbracelet", "sigs.k8s.io/karpenter", root + "/pkg/install", root + "/pkg/verify", root + "/pkg/connectivity"})
				return anyOf(heavy...)("", imported)
			},
			reason: "an agent's image carries only what the agent does",
		},
		{
			name: "agents link no generated clientset", closure: true,
			to:      func(p string) bool { return within(p, agents+"/cmd") && !within(p, agents+"/cmd/vpa") },
			forbids: anyOf("k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "k8s.io/client-go/tools/leaderelection", "sigs.k8s.io/controller-runtime"),
			reason:  "it brings every API group with it, which was half of a binary and a quarter of an agent's memory; upstream's VPA libraries are made of it",
		},
		{
			name: "an agent knows no other agent", to: under(agents),
			forbids: func(from, imported string) bool {
				if !within(imported, agents) || within(imported, agents+"/internal") || within(from, agents+"/cmd") {
					return false
				}
				return room(from) != room(imported)
			},
			reason: "what two agents share is the chassis (agents/internal) or the contract",
		},
		{
			name: "nobody imports the lab", to: func(p string) bool { return within(p, root) && !within(p, lab) },
			forbids: anyOf(lab),
			reason:  "the lab ships nothing",
		},
		{
			name: "root does not import agents", to: func(p string) bool { return within(p, root) && !within(p, agents) && !within(p, lab) },
			forbids: anyOf(agents),
			reason:  "arrows go one way: lab, agents, root; a replace in root would break go install",
		},
	}
}

// pending are paths that the laws name and that are not there yet. Any other that is not there is a slip of the pen, and
// makes a law that looks like one.
func pending() map[string]string {
	return map[string]string{
		root + "/internal/ui/tea": "the terminal UI is still to come",
	}
}

// named are the paths of ours that the source of the laws names: root+"/pkg/x", agents+"/internal", at("pkg/x").
func named(t *testing.T, source any) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "archtest_test.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	modules := map[string]string{"root": root, "agents": agents, "lab": lab}
	literal := func(e ast.Expr) (string, bool) {
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(lit.Value)
		return text, err == nil
	}
	found := map[string]bool{}
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Name.Name != "laws" {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				module, isIdent := n.X.(*ast.Ident)
				if path, ok := literal(n.Y); isIdent && ok && modules[module.Name] != "" {
					found[modules[module.Name]+path] = true
				}
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "at" {
					for _, arg := range n.Args {
						if path, ok := literal(arg); ok {
							found[root+"/"+path] = true
						}
					}
				}
			}
			return true
		})
	}
	return found
}

// missing says what of the named paths is no package, and holds none, though it is not pending; and what is pending though
// it is there, or named by no law.
func missing(names map[string]bool, packages map[string]*pkg, pending map[string]string) []string {
	var found []string
	there := func(name string) bool {
		for path := range packages {
			if within(path, name) {
				return true
			}
		}
		return false
	}
	for name := range names {
		if _, waits := pending[name]; !waits && !there(name) {
			found = append(found, name+": named by a law, and there is no such package: correct it, or list it as pending")
		}
	}
	for name := range pending {
		switch {
		case there(name):
			found = append(found, name+": is there now: it is pending no more")
		case !names[name]:
			found = append(found, name+": is pending, and no law names it")
		}
	}
	sort.Strings(found)
	return found
}

// TestLawsNameWhatIsThere: a law about a package whose name is spelt wrong, or that has moved, holds nothing.
func TestLawsNameWhatIsThere(t *testing.T) {
	names := named(t, nil)
	if len(names) < 16 {
		t.Errorf("only %d paths found in the laws: %v", len(names), names)
	}
	for _, m := range missing(names, load(t), pending()) {
		t.Error(m)
	}
}

// TestMissingCatches plants a law that names nothing, in each of the forms in which laws name things.
func TestMissingCatches(t *testing.T) {
	packages := map[string]*pkg{root + "/pkg/event": {}, root + "/pkg/install/deep": {}, agents + "/internal/agent": {}}
	for _, tt := range []struct {
		name, reason, law string
		pending           map[string]string
		want              []string
	}{
		{"all there", "a prefix counts, too", `rule{to: at("pkg/event"), forbids: anyOf(root + "/pkg/install", agents + "/internal")}`, nil, nil},
		{"misspelt in at", "it binds nothing", `rule{to: at("pkg/event", "pkg/evnt")}`, nil, []string{root + "/pkg/evnt"}},
		{"misspelt in what is forbidden", "it forbids nothing", `rule{forbids: anyOf(root + "/pkg/instal")}`, nil, []string{root + "/pkg/instal"}},
		{"misspelt within a function", "exceptions are law", `rule{to: func(p string) bool { return p == agents+"/intern" }}`, nil, []string{agents + "/intern"}},
		{"pending", "it is still to come", `rule{to: at("pkg/verify/ref")}`, map[string]string{root + "/pkg/verify/ref": "to come"}, nil},
		{"pending, and there", "the list must not cover what is bound", `rule{to: at("pkg/event")}`, map[string]string{root + "/pkg/event": "to come"}, []string{root + "/pkg/event"}},
		{"pending for nothing", "the list must not outlive its laws", `rule{to: at("pkg/event")}`, map[string]string{root + "/pkg/x": "to come"}, []string{root + "/pkg/x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := missing(named(t, "package archtest\nfunc laws() []rule { return []rule{"+tt.law+"} }"), packages, tt.pending)
			if len(found) != len(tt.want) {
				t.Fatalf("found %q, want %q: %s", found, tt.want, tt.reason)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(found[i], want+": ") {
					t.Errorf("found %q, want %q", found[i], want)
				}
			}
		})
	}
}

// room is the first folder under agents/ of a package.
func room(path string) string {
	r, _, _ := strings.Cut(strings.TrimPrefix(path, agents+"/"), "/")
	return r
}

func TestImportLaw(t *testing.T) {
	packages := load(t)
	for _, law := range laws() {
		t.Run(law.name, func(t *testing.T) {
			bound := 0
			for path := range packages {
				if !law.to(path) {
					continue
				}
				bound++
				for _, v := range violations(packages, law, path) {
					t.Errorf("%s\n\treason: %s", v, law.reason)
				}
			}
			if bound == 0 {
				t.Error("binds no package: a law that binds nothing holds nothing")
			}
		})
	}
}

// TestLawCatches plants a violation of each rule's kind: a law that cannot fail is decoration.
func TestLawCatches(t *testing.T) {
	planted := map[string]*pkg{
		root + "/pkg/event":              {ImportPath: root + "/pkg/event", Imports: []string{"github.com/spf13/cobra"}},
		root + "/pkg/nopsapi/nopsclient": {ImportPath: root + "/pkg/nopsapi/nopsclient", Imports: []string{root + "/internal/kube"}},
		root + "/internal/kube":          {ImportPath: root + "/internal/kube", Imports: []string{"k8s.io/client-go/rest"}},
		root + "/pkg/install":            {ImportPath: root + "/pkg/install", Imports: []string{root + "/embedded-chart", "github.com/sigstore/sigstore-go/pkg/verify"}},
		root + "/pkg/verify":             {ImportPath: root + "/pkg/verify", Imports: []string{root + "/pkg/connectivity", root + "/pkg/install", root + "/internal/signing", root + "/pkg/verify/ref/reftest"}},
		root + "/pkg/verify/lock":        {ImportPath: root + "/pkg/verify/lock", Imports: []string{"github.com/sigstore/sigstore-go/pkg/verify"}},
		root + "/pkg/connectivity":       {ImportPath: root + "/pkg/connectivity", Imports: []string{root + "/pkg/verify/ref"}},
		root + "/internal/cli":           {ImportPath: root + "/internal/cli", Imports: []string{"helm.sh/helm/v3/pkg/action", "github.com/charmbracelet/bubbletea", lab + "/cluster", agents + "/heartbeat"}},
		root + "/internal/platform":      {ImportPath: root + "/internal/platform", Imports: []string{root + "/pkg/nopsapi/nopsclient"}},
		agents + "/cmd/heartbeat":        {ImportPath: agents + "/cmd/heartbeat", Imports: []string{"k8s.io/client-go/tools/leaderelection"}},
		agents + "/heartbeat":            {ImportPath: agents + "/heartbeat", Imports: []string{agents + "/vpa", root + "/pkg/install"}},
		root + "/internal/innocent":      {ImportPath: root + "/internal/innocent", Imports: []string{"fmt", "github.com/spf13/cobra"}},
	}
	for _, law := range laws() {
		t.Run(law.name, func(t *testing.T) {
			caught := 0
			for path := range planted {
				if law.to(path) {
					caught += len(violations(planted, law, path))
				}
			}
			if caught == 0 {
				t.Errorf("the planted violation was not found")
			}
		})
		if law.to(root+"/internal/innocent") && len(violations(planted, law, root+"/internal/innocent")) > 0 {
			t.Errorf("%s: accuses an innocent package", law.name)
		}
	}
}

func violations(packages map[string]*pkg, law rule, path string) []string {
	var found []string
	seen := map[string]bool{}
	var walk func(p string, via []string)
	walk = func(p string, via []string) {
		if seen[p] || packages[p] == nil {
			return
		}
		seen[p] = true
		for _, imported := range packages[p].Imports {
			ours := packages[imported] != nil
			switch {
			case law.forbids(path, imported):
				found = append(found, fmt.Sprintf("%s imports %s", strings.Join(append(via, p), " → "), imported))
			case law.closure && ours:
				walk(imported, append(via, p))
			}
		}
	}
	walk(path, nil)
	sort.Strings(found)
	return found
}

// load lists the packages of the three modules.
func load(t *testing.T) map[string]*pkg {
	t.Helper()
	packages := map[string]*pkg{}
	for _, dir := range []string{".", "agents", "lab"} {
		cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Dir,Standard,Imports,GoFiles", "./...")
		cmd.Dir = filepath.Join("..", "..", dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list in module %s: %v\n%s", dir, err, stderr.String())
		}
		for dec := json.NewDecoder(bytes.NewReader(out)); ; {
			var p pkg
			if err := dec.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("go list in module %s: %v", dir, err)
			}
			packages[p.ImportPath] = &p
		}
	}
	if len(packages) < 10 {
		t.Fatalf("found only %d packages: the law would bind nothing", len(packages))
	}
	return packages
}

func TestModulesPointOneWay(t *testing.T) {
	for _, tt := range []struct {
		name, file, forbidden, reason string
	}{
		{"root has no replace", "go.mod", "replace ", "a replace breaks go install …/cmd/nopsctl@version"},
		{"root does not require agents", "go.mod", agents, "arrows go one way"},
		{"root does not require lab", "go.mod", lab, "arrows go one way"},
		{"agents does not require lab", "agents/go.mod", lab, "arrows go one way"},
		{"agents has no helm", "agents/go.mod", "helm.sh/helm", "agent images carry only what the agent does"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("..", "..", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(data), "\n") {
				if strings.Contains(line, tt.forbidden) && !strings.HasPrefix(strings.TrimSpace(line), "//") && !strings.HasPrefix(line, "module ") {
					t.Errorf("%s:%d: %q: %s", tt.file, i+1, line, tt.reason)
				}
			}
		})
	}
}

// TestNoJunkDrawers refuses packages named after no subject.
func TestNoJunkDrawers(t *testing.T) {
	for path := range load(t) {
		switch name := path[strings.LastIndex(path, "/")+1:]; name {
		case "util", "utils", "common", "helpers", "shared", "types", "models", "misc":
			t.Errorf("%s: name a package after its subject, %q says nothing", path, name)
		}
	}
}

// earlier are the packages whose whole work is to be done before main: each says in its comment why it cannot be later.
var earlier = map[string]bool{"github.com/nopsctl/nopsctl/internal/gcpace": true}

// TestSourceHabits parses every file: one package comment a package, no init functions.
func TestSourceHabits(t *testing.T) {
	for path, p := range load(t) {
		docs := 0
		for _, file := range p.GoFiles {
			name := filepath.Join(p.Dir, file)
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if f.Doc != nil {
				docs++
			}
			for _, decl := range f.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && !earlier[path] {
					t.Errorf("%s: init functions hide work and order; call it from where it is needed", name)
				}
			}
		}
		if len(p.GoFiles) > 0 && docs != 1 {
			t.Errorf("%s: %d package comments, want exactly one", path, docs)
		}
	}
}

// TestNoMachinePaths keeps the paths of whoever's machine out of the repository.
func TestNoMachinePaths(t *testing.T) {
	top := filepath.Join("..", "..")
	// Not /host/root/…, which is a path in a container.
	machine := regexp.MustCompile(`(^|[^A-Za-z0-9_./-])/(root|work|home/[a-z]+)/[A-Za-z0-9._-]+`)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "dist" || d.Name() == "archtest"):
			return filepath.SkipDir
		case d.IsDir() || !d.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if i := machine.FindIndex(data); i != nil {
			t.Errorf("%s: byte %d names a path of one machine: %s", path, i[0], data[i[0]:i[1]])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

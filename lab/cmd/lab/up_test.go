package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/images"
)

func specs(t *testing.T, list map[string]embeddedchart.Image, set build.Set) map[string]images.Spec {
	t.Helper()
	all, err := imageSpecs(list, set, "/bin-of-lab", "/agents", []byte("certificates"))
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]images.Spec{}
	for _, s := range all {
		name := s.Repository + ":" + s.Tag
		if _, twice := byName[name]; twice {
			t.Errorf("%s is served twice", name)
		}
		byName[name] = s
	}
	return byName
}

// TestEveryImageHasItsProgram: a lab with all components serves whatever the chart can be made to run, but for what only
// its vendor can build.
func TestEveryImageHasItsProgram(t *testing.T) {
	list, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	served, some := specs(t, list, build.All), specs(t, list, build.Default)
	programs := map[string]build.Program{}
	for _, p := range append(build.ThirdParty(), build.Agents()...) {
		programs[p.Name] = p
	}
	checked, extra := 0, 0
	for component, i := range list {
		for _, tag := range append([]string{i.Tag}, i.PublishedTags...) {
			name := strings.TrimPrefix(i.Repository, "public.ecr.aws/") + ":" + tag
			s, ok := served[name]
			_, usual := some[name]
			if want := i.Available && !i.External; ok != want {
				t.Errorf("%s: %s served: %v, want %v", component, name, ok, want)
				continue
			}
			if !ok {
				continue
			}
			checked++
			p, known := programs[s.Name]
			dir := "/bin-of-lab"
			if i.Ours {
				dir = "/agents"
			}
			if !known || s.Program != filepath.Join(dir, s.Name) || s.Ours != i.Ours {
				t.Errorf("%s: %+v of %+v", component, s, p)
			}
			if usual == p.Extra {
				t.Errorf("%s: served by default: %v, but its program is extra: %v", component, usual, p.Extra)
			}
			if p.Extra {
				extra++
			}
			if i.Ours && s.Version != i.Tag {
				t.Errorf("%s under tag %s says version %q, want %q: it is one image", component, tag, s.Version, i.Tag)
			}
		}
	}
	if checked != len(served) || checked < 8 || extra != 3 {
		t.Errorf("%d images checked, %d served, %d of them not by default", checked, len(served), extra)
	}
	for _, p := range build.ThirdParty() {
		if i, listed := list[p.Component]; p.Component != "" && (!listed || i.Ours || i.External) {
			t.Errorf("%s is the program of component %q, which is none of other people's that can be built", p.Name, p.Component)
		}
	}
}

// TestDefaultServesTheUsualInstallation: what the chart runs when it is given credentials and nothing else must be there after
// a plain `lab up`; the stories would not notice, for their lab has everything.
func TestDefaultServesTheUsualInstallation(t *testing.T) {
	list, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	served := specs(t, list, build.Default)
	external := map[string]bool{} // dcgm-exporter waits for nodes with GPUs, which a lab has none of
	for _, i := range list {
		external[strings.TrimPrefix(i.Repository, "public.ecr.aws/")+":"+i.Tag] = i.External
	}
	golden, err := os.ReadFile("../../../embedded-chart/testdata/golden/inline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	runs := regexp.MustCompile(`(?m)^ *(?:- )?image: "?public\.ecr\.aws/([^\s"]+)`).FindAllStringSubmatch(string(golden), -1)
	if len(runs) < 4 {
		t.Fatalf("only %d images in a usual installation", len(runs))
	}
	for _, image := range runs {
		if _, ok := served[image[1]]; !ok && !external[image[1]] {
			t.Errorf("the chart runs %s without being asked to, and a lab of the default set does not serve it", image[1])
		}
	}
}

func TestImagesThatNobodyCanBuild(t *testing.T) {
	theirs := embeddedchart.Image{Available: true, Repository: "public.ecr.aws/nops/x/y", Tag: "1"}
	ours := embeddedchart.Image{Available: true, Ours: true, Repository: "public.ecr.aws/nops/k8s-heartbeat-agent", Tag: "1"}
	for _, tt := range []struct {
		name, component string
		change          func(*embeddedchart.Image)
		want            int
		err             string
	}{
		{"ours under two tags", "heartbeat", func(i *embeddedchart.Image) { *i = ours; i.PublishedTags = []string{"2"} }, 2, ""},
		{"nobody's", "nobody", func(*embeddedchart.Image) {}, 0, "nobody knows how to build it"},
		{"ours, not built", "other", func(i *embeddedchart.Image) { i.Ours = true }, 0, "y is not among the agents"},
		{"external", "nobody", func(i *embeddedchart.Image) { i.External = true }, 0, ""},
		{"not yet part of a release", "nobody", func(i *embeddedchart.Image) { i.Available = false }, 0, ""},
		{"left out by the set", "opencost", func(*embeddedchart.Image) {}, 0, ""},
		{"in the set", "vmagent", func(*embeddedchart.Image) {}, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := theirs
			tt.change(&i)
			got, err := imageSpecs(map[string]embeddedchart.Image{tt.component: i}, build.Default, "bin", "agents", nil)
			if len(got) != tt.want || (err == nil) != (tt.err == "") {
				t.Fatalf("%+v, %v", got, err)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), tt.component)) {
				t.Errorf("%v, want %q and the component", err, tt.err)
			}
		})
	}
}

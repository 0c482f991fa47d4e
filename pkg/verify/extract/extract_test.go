package extract

import (
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"
	"strings"
)

func TestGoldenRenders(t *testing.T) {
	files, err := filepath.Glob("../../../embedded-chart/testdata/golden/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, _ := os.ReadFile(f)
		var objects []map[string]any
		for _, doc := range strings.Split("\n"+string(data), "\n---\n") {
			var o map[string]any
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatal(f, err)
			}
			objects = append(objects, o)
		}
		n := 0
		for _, u := range Find(objects) {
			if u.Kind == Suspect {
				t.Log(f, u)
			} else {
				n++
			}
		}
		if n != strings.Count(string(data), " image: ") {
			t.Error(f, n, strings.Count(string(data), " image: "))
		}
	}
}

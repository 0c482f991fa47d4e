package install_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/nopsctl/nopsctl/pkg/install"
)

// entry is a file in an archive.
type entry struct {
	name, content string
	kind          byte
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o644, Size: int64(len(e.content)), Linkname: map[byte]string{tar.TypeSymlink: "/etc/passwd", tar.TypeLink: "a/Chart.yaml"}[e.kind]}
		if e.kind != tar.TypeReg {
			h.Size = 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := io.WriteString(w, e.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const chartYAML = "apiVersion: v2\nname: a\nversion: 0.1.0\n"

// TestChartArchive reads what helm packages, as what it was made from.
func TestChartArchive(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.helm("package", w.chart, "-d", dir)
	packed, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(packed) != 1 {
		t.Fatalf("%v %v", packed, err)
	}
	data, err := os.ReadFile(packed[0])
	if err != nil {
		t.Fatal(err)
	}
	files, err := install.ChartArchive(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(files, "Chart.yaml", "values.yaml", "files/images.yaml", "templates/all.yaml", "templates/NOTES.txt"); err != nil {
		t.Error(err)
	}
	for name, want := range readDir(t, w.chart) {
		if got, err := fs.ReadFile(files, name); err != nil || name != "Chart.yaml" && !bytes.Equal(got, want) { // helm writes Chart.yaml anew
			t.Errorf("%s: %v", name, err)
		}
	}
	e := w.engine(func(o *install.Options) { o.Chart = files })
	w.install(e, w.request())
	if plan, err := w.engine().Plan(t.Context(), w.request()); err != nil || !plan.NoOp {
		t.Errorf("it is the chart that it was made from: %v", err)
	}
}

// TestChartArchiveRefuses what could be anything else than a chart.
func TestChartArchiveRefuses(t *testing.T) {
	good := entry{name: "a/Chart.yaml", content: chartYAML}
	many := []entry{good}
	for i := range 5001 {
		many = append(many, entry{name: "a/" + strings.Repeat("x", 1+i%200) + "/" + string(rune('a'+i/200)) + "/f", content: ""})
	}
	zeros := strings.Repeat("\x00", 5<<20)
	var bomb []entry
	for i := range 20 {
		bomb = append(bomb, entry{name: "a/" + string(rune('a'+i)), content: zeros})
	}
	whole := archive(t, good)
	var behind bytes.Buffer // behind the archive, all zeros
	z := gzip.NewWriter(&behind)
	unzipped, err := gzip.NewReader(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{plain, bytes.Repeat([]byte(zeros), 16)} {
		if _, err := z.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-5] ^= 1 // of the checksum
	for _, tt := range []struct {
		name, says string
		data       []byte
	}{
		{"nothing", "not gzipped", nil},
		{"no archive", "not gzipped", []byte("apiVersion: v2\n")},
		{"too large", "larger than any chart", make([]byte, 17<<20)},
		{"a bomb", "larger than any chart: more than", archive(t, bomb...)},
		{"a bomb behind the archive", "larger than any chart: more than", behind.Bytes()},
		{"a large file", "larger than any chart", archive(t, good, entry{name: "a/x", content: zeros + "x"})},
		{"many files", "more than 5000 files", archive(t, many...)},
		{"cut off", "cannot be read", whole[:len(whole)/2]},
		{"damaged", "cannot be read", flipped},
		{"no chart", "no Chart.yaml", archive(t, entry{name: "a/values.yaml", content: "a: 1"})},
		{"no directory", "no path below", archive(t, entry{name: "Chart.yaml", content: chartYAML})},
		{"two charts", "two directories", archive(t, good, entry{name: "b/Chart.yaml", content: chartYAML})},
		{"a file twice", "twice", archive(t, good, entry{name: "a/Chart.yaml", content: "name: other\n"})},
		{"upwards", "no path below", archive(t, good, entry{name: "a/../../x", content: "x"})},
		{"absolute", "no path below", archive(t, good, entry{name: "/a/x", content: "x"})},
		{"dot", "no path below", archive(t, good, entry{name: "a/./x", content: "x"})},
		{"backslash", "no path below", archive(t, good, entry{name: "a/..\\x", content: "x"})},
		{"drive", "no path below", archive(t, good, entry{name: "a/c:/x", content: "x"})},
		{"symbolic link", "no plain file", archive(t, good, entry{name: "a/x", kind: tar.TypeSymlink})},
		{"hard link", "no plain file", archive(t, good, entry{name: "a/x", kind: tar.TypeLink})},
		{"device", "no plain file", archive(t, good, entry{name: "a/x", kind: tar.TypeChar})},
		{"file as directory", "both a file and a directory", archive(t, good, entry{name: "a/x", content: "x"}, entry{name: "a/x/y", content: "x"})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, err := install.ChartArchive(tt.data)
			if class(err) != install.ClassUsage || !strings.Contains(err.Error(), tt.says) || hint(err) == "" || files != nil {
				t.Errorf("%v (%s)", err, hint(err))
			}
		})
	}
}

// FuzzChartArchive: whatever comes, nothing but valid paths below one directory is read.
func FuzzChartArchive(f *testing.F) {
	f.Add(archive(f, entry{name: "a/Chart.yaml", content: chartYAML}, entry{name: "a/templates/x.yaml", content: "x"}))
	f.Add(archive(f, entry{name: "a/", kind: tar.TypeDir}, entry{name: "a/Chart.yaml", content: chartYAML}, entry{name: "a/../x", content: "x"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := install.ChartArchive(data)
		if err != nil {
			return
		}
		found := map[string]bool{}
		err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				found[path] = true
				_, err = fs.ReadFile(files, path)
			}
			return err
		})
		if err != nil || !found["Chart.yaml"] || slices.ContainsFunc(slices.Collect(maps.Keys(found)), func(p string) bool { return !fs.ValidPath(p) || strings.Contains(p, "\\") }) {
			t.Errorf("%v %v", err, found)
		}
	})
}

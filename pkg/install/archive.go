package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// The bounds of a chart's archive. A release has to fit into a Secret, of which Kubernetes takes one megabyte: no chart that
// can be installed comes near them.
const (
	maxArchive       = 16 << 20 // as it is transferred
	maxChart         = 64 << 20 // unpacked
	maxChartFile     = 5 << 20  // as helm
	maxChartFiles    = 5000
	archiveAdvice    = "helm package makes what is expected: a gzipped tar archive with one directory that holds Chart.yaml"
	definitionOfBomb = "is larger than any chart"
)

// ChartArchive reads a chart as helm packages it, for Options.Chart. It unpacks into memory, and takes nothing but plain
// files below one directory: no links, no path that leads elsewhere, no file twice.
func ChartArchive(data []byte) (fs.FS, error) {
	files, err := unpack(data)
	if err != nil {
		return nil, &Error{Class: ClassUsage, Reason: "chart archive", Err: err, Advice: archiveAdvice}
	}
	return files, nil
}

func unpack(data []byte) (chartFiles, error) {
	if len(data) > maxArchive {
		return nil, fmt.Errorf("it %s: %d bytes, of at most %d", definitionOfBomb, len(data), maxArchive)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("it is not gzipped: %w", err)
	}
	files, root := chartFiles{}, ""
	bounded := &io.LimitedReader{R: unzipped, N: maxChart}
	archive := tar.NewReader(bounded)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, bomb(bounded, err)
		}
		switch header.Typeflag {
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("%q is no plain file", header.Name)
		}
		top, name, below := strings.Cut(header.Name, "/")
		switch {
		case !below, !fs.ValidPath(header.Name), strings.ContainsAny(header.Name, "\\:\x00"):
			return nil, fmt.Errorf("%q is no path below the chart's directory", header.Name)
		case root != "" && top != root:
			return nil, fmt.Errorf("it has two directories, %q and %q", root, top)
		case files[name] != nil:
			return nil, fmt.Errorf("it holds %q twice", header.Name)
		case header.Size > maxChartFile:
			return nil, fmt.Errorf("%q %s: %d bytes, of at most %d", header.Name, definitionOfBomb, header.Size, maxChartFile)
		case len(files) == maxChartFiles:
			return nil, fmt.Errorf("it holds more than %d files", maxChartFiles)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return nil, bomb(bounded, err)
		}
		root, files[name] = top, append([]byte{}, content...)
	}
	// What stands behind the archive is read by nobody; that it is there at all is odd, and its checksum is looked at here.
	if _, err := io.Copy(io.Discard, bounded); err != nil {
		return nil, bomb(bounded, err)
	}
	switch {
	case bounded.N == 0:
		return nil, bomb(bounded, io.ErrUnexpectedEOF)
	case files["Chart.yaml"] == nil:
		return nil, errors.New("it holds no Chart.yaml")
	}
	for name := range files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if files[dir] != nil {
				return nil, fmt.Errorf("%q is both a file and a directory", dir)
			}
		}
	}
	return files, nil
}

func bomb(left *io.LimitedReader, err error) error {
	if left.N == 0 {
		return fmt.Errorf("it %s: more than %d bytes unpacked", definitionOfBomb, maxChart)
	}
	return fmt.Errorf("it cannot be read: %w", err)
}

// chartFiles are the files of a chart by their path, in memory.
type chartFiles map[string][]byte

var _ fs.ReadDirFS = chartFiles(nil)

// Open implements fs.FS.
func (f chartFiles) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if data, ok := f[name]; ok {
		return &openFile{fileInfo{path.Base(name), int64(len(data)), false}, bytes.NewReader(data)}, nil
	}
	if entries, err := f.ReadDir(name); err == nil {
		return &openDir{fileInfo{path.Base(name), 0, true}, entries}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// ReadDir implements fs.ReadDirFS.
func (f chartFiles) ReadDir(dir string) ([]fs.DirEntry, error) {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	found := map[string]fs.DirEntry{}
	for name, data := range f {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		first, _, deeper := strings.Cut(rest, "/")
		info := fileInfo{first, int64(len(data)), deeper}
		if deeper {
			info.size = 0
		}
		found[first] = fs.FileInfoToDirEntry(info)
	}
	if len(found) == 0 {
		return nil, &fs.PathError{Op: "readdir", Path: dir, Err: fs.ErrNotExist}
	}
	entries := make([]fs.DirEntry, 0, len(found))
	for _, name := range sortedKeys(found) {
		entries = append(entries, found[name])
	}
	return entries, nil
}

type fileInfo struct {
	name string
	size int64
	dir  bool
}

// Name implements fs.FileInfo.
func (i fileInfo) Name() string { return i.name }

// Size implements fs.FileInfo.
func (i fileInfo) Size() int64 { return i.size }

// Mode implements fs.FileInfo.
func (i fileInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// ModTime implements fs.FileInfo: archives of the same files are the same.
func (i fileInfo) ModTime() time.Time { return time.Time{} }

// IsDir implements fs.FileInfo.
func (i fileInfo) IsDir() bool { return i.dir }

// Sys implements fs.FileInfo.
func (i fileInfo) Sys() any { return nil }

type openFile struct {
	fileInfo
	*bytes.Reader
}

// Stat implements fs.File.
func (f *openFile) Stat() (fs.FileInfo, error) { return f.fileInfo, nil }

// Size is the file's, as both parts say.
func (f *openFile) Size() int64 { return f.size }

// Close implements fs.File.
func (f *openFile) Close() error { return nil }

type openDir struct {
	fileInfo
	left []fs.DirEntry
}

// Stat implements fs.File.
func (d *openDir) Stat() (fs.FileInfo, error) { return d.fileInfo, nil }

// Read implements fs.File.
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("is a directory")}
}

// Close implements fs.File.
func (d *openDir) Close() error { return nil }

// ReadDir implements fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.left)
	} else if len(d.left) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.left))
	some := slices.Clone(d.left[:n])
	d.left = d.left[n:]
	return some, nil
}

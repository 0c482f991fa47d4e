package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// maxFile bounds files that flags and policies name; a packaged chart is the largest of them.
const maxFile = 32 << 20

var errNoFile = errors.New("it is no regular file")

// readFile reads a file that somebody named: a whole one, of a size that makes sense. A device never ends and a named pipe may
// never begin; what a shell puts in place of <(command) is a pipe that does.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err //nolint:wrapcheck // names the file
	}
	pipe := info.Mode()&fs.ModeNamedPipe != 0 && (strings.HasPrefix(name, "/dev/fd/") || strings.HasPrefix(name, "/proc/self/fd/") || name == "/dev/stdin")
	if !info.Mode().IsRegular() && !pipe {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errNoFile}
	}
	f, err := os.Open(name) //nolint:gosec // the user named it
	if err != nil {
		return nil, err //nolint:wrapcheck // names the file
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("it has more than %d MiB", maxFile>>20)}
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // names the file
	}
	return data, nil
}

//go:build unix

package verify

import (
	"io/fs"
	"os"
	"syscall"
)

// ownedByUs says whether a file belongs to whoever runs this: root does not believe what another user wrote.
func ownedByUs(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(s.Uid) == int64(os.Geteuid())
}

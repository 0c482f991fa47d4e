// Package version says which build this is. The linker sets it (see the Makefile and goreleaser.yaml); a plain `go build` or
// `go install` falls back on what the Go toolchain recorded.
package version

import (
	"runtime/debug"
	"strings"
)

// Set by -ldflags -X, never by code.
var (
	version string
	commit  string
	date    string
)

// Version is the version without a leading v, "dev" when unknown.
func Version() string {
	if version != "" {
		return strings.TrimPrefix(version, "v")
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return strings.TrimPrefix(info.Main.Version, "v")
	}
	return "dev"
}

// Commit is the commit it was built from, empty when unknown.
func Commit() string {
	if commit != "" {
		return commit
	}
	return setting("vcs.revision")
}

// Date is when that commit was made, empty when unknown.
func Date() string {
	if date != "" {
		return date
	}
	return setting("vcs.time")
}

func setting(key string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

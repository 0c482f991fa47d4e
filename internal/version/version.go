// Package version says which build of nopsctl this is.
package version

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// Set by the linker: -X github.com/nopsctl/nopsctl/internal/version.version=v1.2.3. Empty means that go build or go install
// made the binary without us; the toolchain's own record is asked then.
var version, commit string

// Info is a build.
type Info struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Get reads this binary's own record.
func Get() Info {
	i := Info{Version: version, Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if i.Version == "" {
		i.fromBuild(debug.ReadBuildInfo())
	}
	if i.Version == "" {
		i.Version = "dev"
	}
	return i
}

func (i *Info) fromBuild(b *debug.BuildInfo, ok bool) {
	if !ok {
		return
	}
	if v := b.Main.Version; v != "" && v != "(devel)" {
		i.Version = v
	}
	for _, s := range b.Settings {
		if s.Key == "vcs.revision" && i.Commit == "" {
			i.Commit = s.Value
		}
	}
}

// UserAgent is how requests name their sender.
func (i Info) UserAgent() string {
	return "nopsctl/" + strings.TrimPrefix(i.Version, "v") + " (" + i.Platform + ")"
}

package version

import (
	"runtime/debug"
	"testing"
)

func TestFromBuild(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		build        *debug.BuildInfo
		ok           bool
		want         Info
	}{
		{name: "installed", reason: "go install …@v1.2.3 records the version", ok: true,
			build: &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}},
			want:  Info{Version: "v1.2.3", Commit: "abc"}},
		{name: "checkout", reason: "a build of a checkout has no version", ok: true, build: &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}},
		{name: "nothing", reason: "a binary without a record still answers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got Info
			got.fromBuild(tt.build, tt.ok)
			if got != tt.want {
				t.Errorf("got %+v, want %+v: %s", got, tt.want, tt.reason)
			}
		})
	}
}

func TestGetIsComplete(t *testing.T) {
	i := Get()
	if i.Version == "" || i.Go == "" || i.Platform == "" {
		t.Errorf("incomplete: %+v", i)
	}
	if got := (Info{Version: "v1.2.3", Platform: "linux/amd64"}).UserAgent(); got != "nopsctl/1.2.3 (linux/amd64)" {
		t.Errorf("user agent %q", got)
	}
}

package updater

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/version"
)

// versionEvery is how often the API server's version is asked: clusters are upgraded while this runs.
const versionEvery = time.Hour

// Kubernetes 1.33 is the first that resizes pods, and 1.34 the first that lowers the memory limit of a container while it runs. Between them the
// API server refuses the whole of a resize that would, unless the container's resizePolicy restarts it. Before them nothing is resized: what a pod
// is evicted for is lowered, too.
const (
	resizesSince = 33
	lowersSince  = 34
)

// keepsLimits says whether an API server of this version resizes pods, but refuses to lower memory limits; one that says nothing intelligible is asked by trying.
func keepsLimits(v *version.Info) bool {
	minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+"))
	return v.Major == "1" && err == nil && minor >= resizesSince && minor < lowersSince
}

// refusesLowering says whether that is what the API server's answer says.
func refusesLowering(err error) bool {
	return strings.Contains(err.Error(), "memory limits cannot be decreased")
}

// askVersion asks which version it is, from time to time.
func (u *Updater) askVersion(ctx context.Context, now time.Time) {
	if now.Sub(u.asked) < versionEvery {
		return
	}
	v, err := u.kube.Discovery().ServerVersion()
	if err != nil {
		u.log.LogAttrs(ctx, slog.LevelInfo, "the API server's version is not known", slog.Any("error", err))
		return
	}
	u.asked, u.keeps = now, keepsLimits(v)
}

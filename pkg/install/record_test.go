package install_test

import (
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"

	"github.com/nopsctl/nopsctl/internal/kube"
)

// setStatus writes a release's record with Helm's own storage.
func setStatus(w *world, status string) error {
	cfg := new(action.Configuration)
	if err := cfg.Init(w.cluster(kube.Options{}), w.namespace, "secret", func(string, ...any) {}); err != nil {
		return err
	}
	last, err := cfg.Releases.Last(w.release)
	if err != nil {
		return err
	}
	last.Info.Status = release.Status(status)
	return cfg.Releases.Update(last)
}

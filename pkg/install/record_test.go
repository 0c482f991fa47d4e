package install_test

import (
	"encoding/json"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"

	"github.com/nopsctl/nopsctl/internal/kube"
)

// setStatus writes a release's record with Helm's own storage.
func setStatus(w *world, status string) error {
	return change(w, func(r *release.Release) { r.Info.Status = release.Status(status) })
}

// change rewrites the last record.
func change(w *world, f func(*release.Release)) error {
	cfg := new(action.Configuration)
	if err := cfg.Init(w.cluster(kube.Options{}), w.namespace, "secret", func(string, ...any) {}); err != nil {
		return err
	}
	last, err := cfg.Releases.Last(w.release)
	if err != nil {
		return err
	}
	f(last)
	return cfg.Releases.Update(last)
}

// recorded is all that the release's records say.
func recorded(w *world) (string, error) {
	cfg := new(action.Configuration)
	if err := cfg.Init(w.cluster(kube.Options{}), w.namespace, "secret", func(string, ...any) {}); err != nil {
		return "", err
	}
	all, err := cfg.Releases.History(w.release)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(all)
	return string(b), err
}

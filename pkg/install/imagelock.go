package install

import (
	"fmt"
	"slices"
	"time"

	"helm.sh/helm/v3/pkg/release"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/pkg/verify/lock"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// LockConfigMap holds, under the key lock.FileName, what the release is pinned to and on what basis.
//
// It is an object of the release, which Helm applies before the workloads, keeps in the release's record, puts back with a
// rollback, and removes with the release. So it says what the release declares, whoever works on it: after `helm rollback` it
// is the lock of that revision, and after a plain `helm upgrade`, which pins nothing, there is none.
//
// New images are held against the lock in the record of the last revision that was deployed, not against the live object: a
// revision that failed accepted nothing.
const LockConfigMap = "nops-image-lock"

// lockIn finds the lock in a manifest; nil when there is none.
func lockIn(objects []object, namespace string) (*lock.Lock, error) {
	for _, o := range objects {
		if o.GetKind() != "ConfigMap" || o.GetName() != LockConfigMap || o.GetNamespace() != "" && o.GetNamespace() != namespace {
			continue
		}
		data, _ := lookup(o.Object, "data")
		entries, _ := data.(map[string]any)
		text, _ := entries[lock.FileName].(string)
		l, err := lock.Read([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("ConfigMap %s: %w", LockConfigMap, err)
		}
		return &l, nil
	}
	return nil, nil
}

// accepted is what new images are held against, and a new chart: the lock of the last revision that was deployed. Images that
// it no longer has, because their component is switched off, are taken from revisions before it: a switch must not make them forgotten.
func (p *planner) accepted() lock.Lock {
	var all lock.Lock
	known := map[string]bool{}
	for _, r := range slices.Backward(p.records) {
		if r.Info.Status != release.StatusDeployed && r.Info.Status != release.StatusSuperseded {
			continue
		}
		objects, err := parse(r.Manifest, p.Namespace, p.mapper)
		if err != nil {
			continue // a damaged record of the past; that of the present has stopped the plan
		}
		l, err := lockIn(objects, p.Namespace)
		if err != nil {
			p.warn(warnDowngrade, fmt.Sprintf("revision %d: %s: what it was pinned to is not compared", r.Version, err), "")
			continue
		}
		if l == nil {
			continue
		}
		entries := l.Images
		if l.Chart.Artifact != nil {
			entries = append(slices.Clone(entries), *l.Chart.Artifact)
		}
		now := map[string]bool{}
		for _, e := range entries {
			if !known[e.Name] {
				all.Images = append(all.Images, e)
				// One that was accepted without a time, on somebody's word, does not hide when the one before it was signed.
				now[e.Name] = now[e.Name] || !e.SignedAt.IsZero()
			}
		}
		for name, timed := range now {
			known[name] = known[name] || timed
		}
	}
	return all
}

// locks makes the lock of what is admitted and kept; nil when there is nothing to lock. The lock of a release that is as wanted stays as it is.
func (p *planner) locks() (*lock.Lock, error) {
	before, err := lockIn(p.base, p.Namespace)
	if err != nil { // told by accepted, where it matters
		before = nil
	}
	made := lock.Made{Written: p.Now().UTC().Truncate(time.Second), Policy: p.policy, ChartName: p.source.Name(), ChartVersion: p.source.Metadata.Version, Chart: p.request.ChartArtifact}
	if p.request.Admission == nil && before != nil {
		made.Policy = before.Policy
	}
	now, err := lock.New(nil, made)
	if err != nil {
		return nil, fmt.Errorf("lock the images: %w", err)
	}
	if p.request.Admission == nil && before != nil && !p.request.ChartArtifact.Valid() && before.Chart.Name == now.Chart.Name && before.Chart.Version == now.Chart.Version {
		now.Chart = before.Chart
	}
	for _, i := range slices.Concat(p.found, p.suspects) {
		switch {
		case i.admitted.Valid():
			one, err := lock.New([]ref.Admitted{i.admitted}, made)
			if err != nil {
				return nil, fmt.Errorf("lock the images: %w", err)
			}
			for _, e := range one.Images {
				e.Reference = i.rendered().String() // whether the tag was asked for or what it was pinned to makes no difference
				now.Images = append(now.Images, e)
			}
		case i.kept != "" && before != nil:
			for _, e := range before.Images {
				if e.Reference == i.rendered().String() && e.Digest == i.kept {
					now.Images = append(now.Images, e)
				}
			}
		}
	}
	if len(now.Images) == 0 {
		return nil, nil
	}
	if before != nil {
		now.Written = before.Written
		if same, err := equalLocks(*before, now); err == nil && same {
			return before, nil
		}
		now.Written = made.Written
	}
	return &now, nil
}

func equalLocks(a, b lock.Lock) (bool, error) {
	x, err := a.Write()
	if err != nil {
		return false, fmt.Errorf("lock the images: %w", err)
	}
	y, err := b.Write()
	return string(x) == string(y), err //nolint:wrapcheck // of the same sort
}

// document is the lock as an object of the release.
func (p *planner) document(l *lock.Lock) ([]byte, error) {
	text, err := l.Write()
	if err != nil {
		return nil, fmt.Errorf("lock the images: %w", err)
	}
	data, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": LockConfigMap, "namespace": p.Namespace, "labels": map[string]any{labelPartOf: partOf, labelInstance: p.Release}},
		"data":     map[string]any{lock.FileName: string(text)},
	})
	if err != nil {
		return nil, fmt.Errorf("lock the images: %w", err)
	}
	return append([]byte("---\n# Source: "+managerName+"/"+LockConfigMap+"\n"), data...), nil
}

// downgrades refuses images that were signed before what was accepted last.
func (p *planner) downgrades(now *lock.Lock) {
	for _, f := range lock.Downgrades(p.accepted(), *now) {
		if !p.enforced || p.request.AllowDowngrade {
			p.warn(warnDowngrade, f.Message, "")
			continue
		}
		refused := false
		for _, i := range p.found {
			if !i.admitted.Valid() {
				continue
			}
			if facts := i.admitted.Facts(); facts.Canonical.Name() == f.Entry.Name && facts.Digest == f.Entry.Digest {
				i.refuse(f.Reason, f.Message)
				refused = true
			}
		}
		if !refused { // the chart's own
			p.unlocked = append(p.unlocked, RefusedImage{Reference: p.request.ChartArtifact.String(), Outcome: string(f.Outcome), Reason: string(f.Reason), Message: f.Message, Hint: f.Reason.Hint()})
		}
	}
}

// underLock refuses what the lock that was given does not have.
func (p *planner) underLock(now *lock.Lock) {
	if p.request.Lock == nil {
		return
	}
	for _, c := range lock.Differences(*p.request.Lock, *now) {
		p.unlocked = append(p.unlocked, RefusedImage{Reference: c.Reference, Outcome: string(verdict.BadPolicy), Reason: ReasonNotLocked, Message: c.String(),
			Hint: "install what the lock was made for, or make a new lock on purpose by leaving --lock out"})
	}
}

// ReasonNotLocked is the reason of a refusal of what the given lock does not have.
const ReasonNotLocked = string(verdict.NotLocked)

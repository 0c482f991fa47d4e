package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/kube"
	upstreamvpa "github.com/nopsctl/nopsctl/lab/vpa"
)

// updating is what an updater did that looks at all pods and finds each as it is recommended: nearly all loops of a cluster are such.
type updating struct {
	Loops int           // that were counted
	CPU   time.Duration // of one
	RSS   int64         // at most
}

// judgeLimit is how long it may take until an updater has looked at all pods for the first time: ours then says so of each autoscaler.
const judgeLimit = 6 * time.Minute

// updater measures one, alone.
func (w *world) updater(ctx context.Context, s stack) (got updating, err error) {
	w.say("updater: autoscalers whose pods are as recommended")
	if err := w.fitting(ctx, s); err != nil {
		return got, err
	}
	p, err := w.startUpdater(ctx, s)
	if err != nil {
		return got, err
	}
	defer p.Stop()
	err = kube.Until(ctx, "the updater to look at all pods", judgeLimit, func() error {
		judged, err := w.judged(ctx, s, p)
		if err == nil && judged != w.profile.pods() {
			err = fmt.Errorf("it looked at %d of %d", judged, w.profile.pods())
		}
		return err
	}, p.Process)
	if err != nil {
		return got, fmt.Errorf("%w\n%s", err, p.Tail(15))
	}
	from, err := w.turned(ctx, p, -1)
	if err != nil {
		return got, err
	}
	w.say("updater: loops, for %s", w.Steady)
	to := from
	for to.at.Before(from.at.Add(w.Steady)) {
		if to, err = w.turned(ctx, p, updaterLoops(to)); err != nil {
			return got, err
		}
	}
	got.Loops = updaterLoops(to) - updaterLoops(from)
	got.CPU, got.RSS = (to.took.CPU-from.took.CPU)/time.Duration(got.Loops), to.took.Top
	return got, nil
}

// turned waits for the end of a loop after so many; -1 is the next one.
func (w *world) turned(ctx context.Context, p *program, after int) (m moment, err error) {
	err = kube.Until(ctx, "a loop of the updater", judgeLimit, func() error {
		if m, err = w.moment(ctx, p); err != nil {
			return err
		}
		if after < 0 {
			after = updaterLoops(m)
		}
		if updaterLoops(m) <= after {
			return fmt.Errorf("it turned %d times", after)
		}
		return nil
	}, p.Process)
	return m, err
}

// updaterLoops is how many loops there were: each has one of the names.
func updaterLoops(m moment) int {
	n, _ := m.samples.step("updater", "total")
	return n + int(m.samples["nops_vpa_updater_loops_total"])
}

// fitting makes autoscalers that recommend what pods have.
func (w *world) fitting(ctx context.Context, s stack) error {
	if err := w.forget(ctx); err != nil {
		return err
	}
	now := time.Now().UTC().Format(time.RFC3339)
	var all []kube.Object
	for i := range w.Autoscalers {
		one := s.autoscaler(i, "InPlaceOrRecreate")
		var recommended []map[string]any
		for _, c := range podSpec(i).Containers {
			of := map[string]any{}
			for name, q := range c.Resources.Requests {
				of[string(name)] = q.String()
			}
			recommended = append(recommended, map[string]any{"containerName": c.Name, "target": of, "uncappedTarget": of, "lowerBound": of, "upperBound": of})
		}
		one["status"] = map[string]any{"recommendation": map[string]any{"containerRecommendations": recommended}, "conditions": []map[string]any{{"type": "RecommendationProvided", "status": "True", "lastTransitionTime": now}}}
		all = append(all, kube.Object{Collection: s.collection(w.namespace(i), autoscalers), Body: one})
	}
	return w.api.Fill(ctx, all)
}

// judged is at how many pods an updater looked: ours tells it of each autoscaler, upstream's in its metrics.
func (w *world) judged(ctx context.Context, s stack, p *program) (pods int, err error) {
	if s.name == upstream {
		page, err := p.scrape(ctx)
		for name, n := range page {
			if strings.HasPrefix(name, "vpa_updater_controlled_pods_total{") {
				pods += int(n)
			}
		}
		return pods, err
	}
	var list struct {
		Items []struct {
			Status struct{ Application json.RawMessage }
		}
	}
	if err := w.api.Do(ctx, http.MethodGet, "/apis/"+s.group+"/v1/"+autoscalers, "", nil, &list); err != nil {
		return 0, err
	}
	for _, one := range list.Items {
		var application struct{ State string }
		if one.Status.Application != nil {
			if err := json.Unmarshal(one.Status.Application, &application); err != nil {
				return 0, fmt.Errorf("what the updater says of an autoscaler: %w", err)
			}
		}
		if application.State == "Applied" {
			pods += w.Pods
		}
	}
	return pods, nil
}

func (w *world) startUpdater(ctx context.Context, s stack) (*program, error) {
	interval := w.Interval.String()
	if s.name == ours {
		return w.start(ctx, s, "updater", w.program, func(metrics string) []string {
			return []string{"updater", "--every=" + interval, "--listen-address=" + metrics}
		})
	}
	return w.start(ctx, s, "updater", filepath.Join(w.assets, upstreamvpa.Updater), func(metrics string) []string {
		return []string{"--kubeconfig=" + filepath.Join(w.dir, "kubeconfig-shim"), "--updater-interval=" + interval, "--address=" + metrics, fmt.Sprintf("--kube-api-qps=%d", clientQPS), fmt.Sprintf("--kube-api-burst=%d", clientBurst),
			"--use-admission-controller-status=false"}
	})
}

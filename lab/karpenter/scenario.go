package karpenter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// Scenario is what was done to a cluster with Karpenter, and what Karpenter did: see lab/bench/karpenops/testdata/live.
type Scenario struct {
	Name     string    `json:"name"`
	Reason   string    `json:"reason"` // why it is worth knowing
	Options  Options   `json:"karpenter"`
	Steps    []Step    `json:"steps"`
	Observed *Observed `json:"observed,omitempty"`
}

// Step is one thing that is done, and what is waited for then.
type Step struct {
	Name   string            `json:"name"`
	Apply  []json.RawMessage `json:"apply,omitempty"`  // objects, created or changed
	Patch  *Patch            `json:"patch,omitempty"`  // a JSON merge patch
	Delete string            `json:"delete,omitempty"` // kind/name; is not waited for
	Scale  map[string]int    `json:"scale,omitempty"`  // replicas of Deployments
	Until  *Until            `json:"until,omitempty"`
	Hold   string            `json:"hold,omitempty"` // then so long nothing is done
}

// Patch changes an object.
type Patch struct {
	Object string          `json:"object"` // kind/name
	Merge  json.RawMessage `json:"merge"`
}

// Until is a state that Karpenter is expected to come to: exactly so many nodes in each pool named, none of them coming or
// going, and so many pods running in it, none pending anywhere.
type Until struct {
	Nodes  map[string]int `json:"nodes"`
	Pods   map[string]int `json:"pods,omitempty"`
	Within string         `json:"within"`
}

// Observed is what happened.
type Observed struct {
	Steps        []StepTime     `json:"steps"`
	Nodes        []Node         `json:"nodes"`
	Pods         []Pods         `json:"pods"`
	MostDeleting map[string]int `json:"most_deleting"` // nodes of a pool that were being deleted at once
}

// StepTime is when a step was done, and when what it waited for had come, its hold included.
type StepTime struct {
	Name  string   `json:"name"`
	Began float64  `json:"began"`
	Met   *float64 `json:"met,omitempty"`
	Ended float64  `json:"ended"`
}

// Format is the scenario as it lies in a file: one line for each object, step time, node and change of pods, so that what
// differs between two recordings is seen.
func (s Scenario) Format() ([]byte, error) {
	whole := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprintf("%q", err.Error())
		}
		return string(text)
	}
	lines := func(indent string, n int, line func(int) string) string {
		if n == 0 {
			return "[]"
		}
		var all []string
		for k := range n {
			all = append(all, indent+"  "+line(k))
		}
		return "[\n" + strings.Join(all, ",\n") + "\n" + indent + "]"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "{\n  \"name\": %s,\n  \"reason\": %s,\n  \"karpenter\": %s,\n", whole(s.Name), whole(s.Reason), whole(s.Options))
	fmt.Fprintf(&out, "  \"steps\": %s", lines("  ", len(s.Steps), func(n int) string {
		step := s.Steps[n]
		objects := step.Apply
		step.Apply = nil
		name := "{\"name\":" + whole(step.Name)
		if len(objects) == 0 {
			return whole(step)
		}
		return name + ", \"apply\": " + lines("    ", len(objects), func(k int) string { return whole(objects[k]) }) + strings.TrimPrefix(whole(step), name)
	}))
	if o := s.Observed; o != nil {
		fmt.Fprintf(&out, ",\n  \"observed\": {\n    \"steps\": %s,\n", lines("    ", len(o.Steps), func(n int) string { return whole(o.Steps[n]) }))
		fmt.Fprintf(&out, "    \"nodes\": %s,\n", lines("    ", len(o.Nodes), func(n int) string { return whole(o.Nodes[n]) }))
		fmt.Fprintf(&out, "    \"pods\": %s,\n    \"most_deleting\": %s\n  }", lines("    ", len(o.Pods), func(n int) string { return whole(o.Pods[n]) }), whole(o.MostDeleting))
	}
	out.WriteString("\n}\n")
	if !json.Valid([]byte(out.String())) {
		return nil, fmt.Errorf("scenario %s: cannot be written as JSON", s.Name)
	}
	return []byte(out.String()), nil
}

// Play does what the scenario says in a lab whose Karpenter it starts and ends, and writes down what happens.
func (l Lab) Play(ctx context.Context, s *Scenario, say func(string)) (err error) {
	if err := l.Off(ctx); err != nil {
		return err
	}
	s.Options.Version = Version
	if err := l.On(ctx, s.Options); err != nil {
		return err
	}
	defer func() {
		// Interrupted or not: it was all for this.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, l.forget(ctx, s))
	}()
	t, err := Watch(ctx, l.kubectlCommand, "default")
	if err != nil {
		return err
	}
	defer t.End()
	o := &Observed{}
	for _, step := range s.Steps {
		say(fmt.Sprintf("%5.1f s  %s", t.Seconds(), step.Name))
		st := StepTime{Name: step.Name, Began: t.Seconds()}
		if err := l.do(ctx, step); err != nil {
			return fmt.Errorf("scenario %s, step %s: %w", s.Name, step.Name, err)
		}
		if step.Until != nil {
			if err := await(ctx, t, *step.Until); err != nil {
				return fmt.Errorf("scenario %s, step %s: %w", s.Name, step.Name, err)
			}
			st.Met = new(t.Seconds())
		}
		if err := hold(ctx, step.Hold); err != nil {
			return fmt.Errorf("scenario %s, step %s: %w", s.Name, step.Name, err)
		}
		st.Ended = t.Seconds()
		o.Steps = append(o.Steps, st)
	}
	if o.Nodes, err = t.Nodes(); err != nil {
		return fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	o.Pods, o.MostDeleting = t.Pods(), MostDeleting(o.Nodes, 0)
	s.Observed = o
	say(fmt.Sprintf("%5.1f s  %s", t.Seconds(), Describe(o.Nodes)))
	return nil
}

func (l Lab) do(ctx context.Context, step Step) error {
	if len(step.Apply) > 0 {
		list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": step.Apply})
		if err != nil {
			return fmt.Errorf("write the objects: %w", err)
		}
		if _, err := l.Kubectl(ctx, list, "apply", "-f", "-"); err != nil {
			return err
		}
	}
	for deployment, replicas := range step.Scale {
		if _, err := l.Kubectl(ctx, nil, "scale", "deployment", deployment, fmt.Sprintf("--replicas=%d", replicas)); err != nil {
			return err
		}
	}
	if step.Patch != nil {
		if _, err := l.Kubectl(ctx, nil, "patch", step.Patch.Object, "--type=merge", "-p", string(step.Patch.Merge)); err != nil {
			return err
		}
	}
	if step.Delete != "" {
		if _, err := l.Kubectl(ctx, nil, "delete", step.Delete, "--wait=false"); err != nil {
			return err
		}
	}
	return nil
}

func await(ctx context.Context, t *Timeline, u Until) error {
	within, err := time.ParseDuration(u.Within)
	if err != nil {
		return fmt.Errorf("until: %w", err)
	}
	for deadline := time.Now().Add(within); ; {
		nodes, err := t.Nodes()
		if err != nil {
			return err
		}
		met := true
		for pool, want := range u.Nodes {
			count, moving := Ready(nodes, pool)
			met = met && count == want && !moving
		}
		pods := Pods{}
		if all := t.Pods(); len(all) > 0 {
			pods = all[len(all)-1]
		}
		met = met && (u.Pods == nil || pods.Pending == 0 && maps.Equal(u.Pods, pods.Running))
		if met {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: nodes %v, pods %v; there are %s; pods %+v", u.Within, u.Nodes, u.Pods, Describe(nodes), pods)
		}
		if err := hold(ctx, "100ms"); err != nil {
			return err
		}
	}
}

func hold(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	select {
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the caller names the step
	case <-time.After(d):
		return nil
	}
}

// forget removes what the scenario made besides Karpenter's own objects, which go with Karpenter.
func (l Lab) forget(ctx context.Context, s *Scenario) error {
	for _, step := range s.Steps {
		for _, o := range step.Apply {
			var meta struct {
				APIVersion, Kind string
				Metadata         struct{ Name string }
			}
			if err := json.Unmarshal(o, &meta); err != nil {
				return fmt.Errorf("scenario %s: %w", s.Name, err)
			}
			if strings.HasPrefix(meta.APIVersion, "karpenter.") {
				continue
			}
			if _, err := l.Kubectl(ctx, nil, "delete", meta.Kind, meta.Metadata.Name, "--ignore-not-found"); err != nil {
				return err
			}
		}
	}
	return l.Off(ctx)
}

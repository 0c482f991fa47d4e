package nopsapi

import (
	"fmt"
	"strings"
)

// validate says what is wrong with the name of a workload. References in Kubernetes need no API version, so one may be missing here.
func (w WorkloadRef) validate() error {
	if len(w.APIVersion) > maxName {
		return fmt.Errorf("api_version has %d bytes, at most %d are allowed", len(w.APIVersion), maxName)
	}
	for _, part := range []struct{ name, text string }{{"kind", w.Kind}, {"namespace", w.Namespace}, {"name", w.Name}} {
		if part.text == "" || len(part.text) > maxName {
			return fmt.Errorf("%s has %d bytes, expected 1 to %d", part.name, len(part.text), maxName)
		}
	}
	return nil
}

// line is for people. It is no String: those that embed a WorkloadRef would print as one.
func (w WorkloadRef) line() string { return clip(w.Kind + " " + w.Namespace + "/" + w.Name) }

// containers says what is wrong with the names of a workload's containers.
func containers(names []string) error {
	if len(names) > MaxContainers {
		return fmt.Errorf("containers: %d, at most %d are allowed", len(names), MaxContainers)
	}
	seen := make(map[string]bool, len(names))
	for i, name := range names {
		switch {
		case name == "" || len(name) > maxName:
			return fmt.Errorf("container %d: its name has %d bytes, expected 1 to %d", i, len(name), maxName)
		case seen[name]:
			return fmt.Errorf("container %d %q: listed twice", i, clip(name))
		}
		seen[name] = true
	}
	return nil
}

// Validate says what is wrong with a list of workloads. Levels and kinds that are not known here are nothing wrong: an agent may be newer
// than the platform, which then recommends nothing for those.
func (r RightsizedWorkloads) Validate() error {
	if err := readable(r.SchemaVersion, RightsizingSchema); err != nil {
		return err
	}
	switch {
	case r.Generation < 1:
		return fmt.Errorf("generation %d: the first list is 1", r.Generation)
	case r.AsOf.IsZero():
		return fmt.Errorf("as_of is missing")
	case len(r.Workloads) > MaxWorkloads:
		return fmt.Errorf("workloads: %d, at most %d are allowed", len(r.Workloads), MaxWorkloads)
	}
	seen := make(map[WorkloadRef]bool, len(r.Workloads))
	for i, w := range r.Workloads {
		err := w.validate()
		switch {
		case err != nil:
		case seen[w.WorkloadRef]:
			err = fmt.Errorf("listed twice")
		case len(w.Level) > maxName:
			err = fmt.Errorf("level has %d bytes, at most %d are allowed", len(w.Level), maxName)
		default:
			err = containers(w.Containers)
		}
		if err != nil {
			return fmt.Errorf("workload %d %q: %w", i, w.line(), err)
		}
		seen[w.WorkloadRef] = true
	}
	return nil
}

// Validate says what is wrong with recommendations. One thing wrong makes all of them unusable: who gets one number wrong may have got
// others wrong.
func (r Recommendations) Validate() error {
	if err := r.validate(RightsizingSchema); err != nil {
		return err
	}
	if len(r.Workloads) > MaxWorkloads {
		return fmt.Errorf("workloads: %d, at most %d are allowed", len(r.Workloads), MaxWorkloads)
	}
	seen := make(map[WorkloadRef]bool, len(r.Workloads))
	for i, w := range r.Workloads {
		err := w.validate()
		switch {
		case err != nil:
		case seen[w.WorkloadRef]:
			err = fmt.Errorf("listed twice")
		default:
			err = w.numbers()
		}
		if err != nil {
			return fmt.Errorf("workload %d %q: %w", i, w.line(), err)
		}
		seen[w.WorkloadRef] = true
	}
	return nil
}

func (w WorkloadRecommendation) numbers() error {
	names := make([]string, len(w.Containers))
	for i, c := range w.Containers {
		names[i] = c.Name
	}
	if err := containers(names); err != nil {
		return err
	}
	for _, c := range w.Containers {
		err := c.CPU.validate("cpu", MaxCores)
		if err == nil {
			err = c.Memory.validate("memory", MaxMemory)
		}
		switch {
		case err != nil:
		case !within(c.Days, 0, maxTotal):
			err = fmt.Errorf("days %v: expected 0 or more", c.Days)
		case c.Samples < 0:
			err = fmt.Errorf("samples %d: expected 0 or more", c.Samples)
		}
		if err != nil {
			return fmt.Errorf("container %q: %w", clip(c.Name), err)
		}
	}
	return nil
}

func (r Recommended) validate(name string, most float64) error {
	for _, x := range []float64{r.Target, r.Lower, r.Upper} {
		if !within(x, 0, most) {
			return fmt.Errorf("%s %v: expected 0 to %v", name, x, most)
		}
	}
	if r.Target == 0 && (r.Lower != 0 || r.Upper != 0) || r.Lower > r.Target || r.Upper != 0 && r.Upper < r.Target {
		return fmt.Errorf("%s %v is not between its bounds %v and %v", name, r.Target, r.Lower, r.Upper)
	}
	return nil
}

// Validate says what is wrong with a delivery of outcomes, and with each of them. Kinds that are not known here are nothing wrong.
func (o Outcomes) Validate() error {
	if err := o.ValidateDelivery(); err != nil {
		return err
	}
	if refused := o.Refused(); len(refused) > 0 {
		return fmt.Errorf("outcome %d %q: %s", refused[0].Index, refused[0].ID, refused[0].Why)
	}
	return nil
}

// ValidateDelivery says what is wrong with a delivery as such: a platform takes nothing of it then.
func (o Outcomes) ValidateDelivery() error {
	if err := readable(o.SchemaVersion, RightsizingSchema); err != nil {
		return err
	}
	switch {
	case len(o.Outcomes) == 0:
		return fmt.Errorf("outcomes is empty")
	case len(o.Outcomes) > MaxOutcomes:
		return fmt.Errorf("outcomes: %d, at most %d are allowed", len(o.Outcomes), MaxOutcomes)
	}
	return nil
}

// Refused are the outcomes with which something is wrong, in their order: a platform takes the others.
func (o Outcomes) Refused() []RefusedOutcome {
	var refused []RefusedOutcome
	seen := make(map[string]bool, len(o.Outcomes))
	for i, one := range o.Outcomes {
		err := one.validate()
		if err == nil && seen[one.ID] {
			err = fmt.Errorf("listed twice")
		}
		if err != nil {
			refused = append(refused, RefusedOutcome{Index: i, ID: clip(one.ID), Why: err.Error()})
			continue
		}
		seen[one.ID] = true
	}
	return refused
}

func (o Outcome) validate() error {
	switch {
	case o.ID == "" || len(o.ID) > MaxRecordID || strings.Contains(o.ID, "|"):
		return fmt.Errorf("id: expected 1 to %d bytes without a bar", MaxRecordID)
	case o.At.IsZero():
		return fmt.Errorf("at is missing")
	case o.Kind == "":
		return fmt.Errorf("kind is empty")
	case len(o.Pod) > maxName:
		return fmt.Errorf("pod has %d bytes, at most %d are allowed", len(o.Pod), maxName)
	}
	return o.Workload.validate()
}

// Validate says whether an answer can be what was written.
func (r RightsizingAck) Validate() error {
	if r.ReceivedAt.IsZero() {
		return fmt.Errorf("received_at is missing")
	}
	return nil
}

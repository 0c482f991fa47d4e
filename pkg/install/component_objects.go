package install

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nopsctl/nopsctl/pkg/verify/extract"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// ComponentRequest asks for what one component consists of.
type ComponentRequest struct {
	Component string // public name
	// Admission is asked about the component's images, and about no others. Nil: what the release was installed with, or ran before the component was
	// switched off, keeps its digest; another image is refused in a release that was installed with a policy, as when it is switched on.
	Admission  Admission
	Unverified bool // as in Request
}

// ComponentObjects is what a component consists of in a release, or would, were it switched on.
type ComponentObjects struct {
	Enabled      bool // the release has it switched on
	ChartVersion string
	Images       []PlannedImage
	// Pinned says that the release runs its images by digest. Otherwise images are what their owner says: those of the live workload count.
	Pinned  bool
	Objects []*unstructured.Unstructured // sorted by kind and name, their images pinned
}

// ComponentObjects renders one component as the release has it, or as it would be were it switched on: the release's chart and values, and the images that a
// switch would install. So somebody can run a component's program for once with exactly what the component has. It writes nothing, and needs no
// component but that one to be well: neither the platform nor other images are asked for.
func (e *Engine) ComponentObjects(ctx context.Context, r ComponentRequest) (*ComponentObjects, error) {
	c, ok := component(r.Component)
	if !ok {
		return nil, &Error{Class: ClassUsage, Reason: "unknown component " + r.Component}
	}
	clients, err := e.connect()
	if err != nil {
		return nil, err
	}
	if err := e.ping(ctx, clients); err != nil {
		return nil, err
	}
	h, err := e.history(ctx)
	if err != nil {
		return nil, err
	}
	last, used, err := e.chartWith(h, c)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	set(values, c.Toggle, true)
	// The checks of a plan are of no interest here, and whoever waits for an answer has not asked for them.
	silent := &Engine{Options: e.Options, files: e.files, clients: clients}
	silent.Observe = nil
	p := &planner{
		Engine: silent, clients: clients, ctx: ctx, keepsPins: true,
		Plan: &Plan{Operation: "run", source: used, request: Request{Operation: "run", Values: values, Admission: r.Admission, Unverified: r.Unverified, Recover: true}},
	}
	for _, step := range []func() error{p.readRelease, p.readNamespace, p.parseBase, p.mergeValues, p.checkIdentity, p.moveCredentials} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	on, err := switches(used, last.Config)
	if err != nil {
		return nil, err
	}
	earlier := len(p.Warnings) // of values, which are as they were
	out := &ComponentObjects{Enabled: on[c.Name].enabled && on[c.Name].without == "", ChartVersion: used.Metadata.Version}
	if err := p.component(c, out); err != nil {
		return nil, err
	}
	for _, w := range p.Warnings[earlier:] {
		e.Observe.Emit(w)
	}
	return out, nil
}

// component renders, and pins the images of the component alone.
func (p *planner) component(c Component, out *ComponentObjects) error {
	r, err := p.rendered()
	if err != nil {
		return err
	}
	all, err := parse(r.manifest, p.Namespace, p.mapper)
	if err != nil {
		return err
	}
	var own []object
	for _, o := range all {
		for _, label := range c.Workloads {
			if o.component() == label {
				own = append(own, o)
			}
		}
	}
	p.found, p.suspects = collect(&rendering{}, own)
	running := p.runs()
	before, err := lockIn(p.base, p.Namespace)
	out.Pinned = err == nil && before != nil
	if out.Pinned { // what it ran before it was switched off was accepted
		for _, entry := range p.accepted().Images {
			if reference, err := ref.Parse(entry.Reference); err == nil && running[reference.OrLatest().At("")] == "" {
				running[reference.OrLatest().At("")] = entry.Digest
			}
		}
	}
	if p.request.Admission != nil {
		if err := p.admit(running); err != nil {
			return err
		}
		if p.lock, err = p.locks(); err != nil {
			return err
		}
		if p.lock != nil {
			p.downgrades(p.lock)
		}
	} else {
		p.keep(running)
	}
	if err := p.refusal(nil); err != nil {
		return err
	}
	pins := map[string]string{}
	for _, i := range p.found {
		pins[i.text] = i.pinned()
		out.Pinned = out.Pinned || i.pinned() != ""
		out.Images = append(out.Images, i.planned())
	}
	for _, i := range p.suspects {
		pins[i.text] = i.pinned()
	}
	for _, o := range own {
		extract.Pin(o.Object, pins)
		out.Objects = append(out.Objects, o.Unstructured)
	}
	return nil
}

// parseBase reads the manifest that an upgrade would be compared with, whoever keeps the release: nothing of it is changed.
func (p *planner) parseBase() error {
	var err error
	if p.base, err = parse(p.records.base().Manifest, p.Namespace, p.mapper); err != nil {
		return fmt.Errorf("manifest of revision %d: %w", p.records.base().Version, err)
	}
	return nil
}

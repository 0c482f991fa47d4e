package install

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/verify/extract"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Admission says which images may be installed.
type Admission interface {
	// Admit is asked once for a plan, before anything is written, with every image that is rendered, each once. It answers for
	// each in the same order. An error is about all of them: none is admitted then.
	Admit(ctx context.Context, images []ref.Reference) (AdmissionResult, error)
}

// AdmissionFunc is an Admission.
type AdmissionFunc func(ctx context.Context, images []ref.Reference) (AdmissionResult, error)

// Admit implements Admission.
func (f AdmissionFunc) Admit(ctx context.Context, images []ref.Reference) (AdmissionResult, error) {
	return f(ctx, images)
}

// AdmissionResult is what an Admission says.
type AdmissionResult struct {
	// Enforced says that an image that is not admitted must stop the installation. Without it, one that cannot be found is a
	// failed preflight check, as without any Admission.
	Enforced bool
	Policy   string // hash of the policy, for the lock; empty when there is none
	Images   []Decision
}

// Decision is about one image: either it is admitted, or the rest says why not.
type Decision struct {
	Admitted ref.Admitted
	Outcome  string // an Outcome of pkg/verify/verdict
	Reason   string // a Reason of pkg/verify/verdict
	Message  string // one line: what, where, for which input
	Hint     string // what to do about it
}

// RefusedImage is an image that was not admitted.
type RefusedImage struct {
	Reference string   `json:"reference"`
	Users     []string `json:"users,omitempty"` // the objects that would run it
	Outcome   string   `json:"outcome"`
	Reason    string   `json:"reason,omitempty"`
	Message   string   `json:"message,omitempty"`
	Hint      string   `json:"hint,omitempty"`
}

// String is one line.
func (r RefusedImage) String() string {
	s := r.Reference + ": " + r.Outcome
	if r.Reason != "" {
		s += " (" + r.Reason + ")"
	}
	if r.Message != "" {
		s += ": " + oneLine(r.Message)
	}
	return s
}

// VerificationError says which images were refused. Other checks may have failed besides: all that did are in Failed.
type VerificationError struct {
	Refused []RefusedImage
	Failed  []event.Check
}

// Error implements error.
func (e *VerificationError) Error() string {
	var s []string
	for _, r := range e.Refused {
		s = append(s, r.String())
	}
	for _, c := range e.Failed {
		if c.ID != checkSignatures {
			s = append(s, c.ID+" "+c.Title+": "+c.Message)
		}
	}
	return "nothing was changed: " + strings.Join(s, "; ")
}

// Hint is the advice about the first image that has any.
func (e *VerificationError) Hint() string {
	for _, r := range e.Refused {
		if r.Hint != "" {
			return r.Hint
		}
	}
	return ""
}

// ExitClass is the class of the exit code.
func (e *VerificationError) ExitClass() string { return ClassVerification }

// BasisKept is that of an image whose digest the release had before and keeps: nobody was asked about it this time.
const BasisKept = "kept"

// foundImage is an image that the chart renders.
type foundImage struct {
	text       string // as it is rendered
	reference  ref.Reference
	unreadable error // it is no reference
	tagged     bool  // rendered without a digest
	users      []object
	places     []string // "Deployment nops/x spec.template.spec.containers[0].image"
	passed     bool     // to a program, in its arguments or environment
	unpinnable string   // of hooks and crds/, which Helm applies as they are rendered
	admitted   ref.Admitted
	kept       string // the digest that the release runs it with
	refused    *RefusedImage
}

// rendered is the reference as the chart has it.
func (i *foundImage) rendered() ref.Reference {
	if i.tagged {
		return i.reference.At("")
	}
	return i.reference
}

// pinned is what is to run; empty where nothing is known but what is rendered.
func (i *foundImage) pinned() string {
	switch {
	case i.admitted.Valid():
		return i.admitted.Pinned().String()
	case i.kept != "":
		return i.reference.At(i.kept).String()
	}
	return ""
}

func (i *foundImage) names() []string {
	var names []string
	for _, o := range i.users {
		names = append(names, o.String())
	}
	return names
}

// collect lists the images of everything that Helm would apply, each once, by name. What only looks like an image is in
// the second list.
func collect(r *rendering, objects []object) (found, suspects []*foundImage) {
	byText := map[string]*foundImage{}
	add := func(o object, unpinnable string) {
		for _, u := range extract.Find([]map[string]any{o.Object}) {
			key := string(u.Kind) + u.Text
			i := byText[key]
			if i == nil {
				i = &foundImage{text: u.Text, reference: u.Reference.OrLatest(), unreadable: u.Err, tagged: u.Reference.Digest == ""}
				byText[key] = i
				if u.Kind == extract.Suspect {
					suspects = append(suspects, i)
				} else {
					found = append(found, i)
				}
			}
			i.users = append(i.users, o)
			i.places = append(i.places, o.String()+" "+u.Path)
			i.passed = i.passed || passedOn.MatchString(u.Path)
			if unpinnable != "" {
				i.unpinnable = unpinnable
			}
		}
	}
	for _, o := range objects {
		add(o, "")
	}
	for _, h := range r.asTheyAre {
		add(h.object, h.where)
	}
	suspects = slices.DeleteFunc(suspects, func(i *foundImage) bool { return byText[string(extract.Image)+i.text] != nil })
	for _, list := range [][]*foundImage{found, suspects} {
		slices.SortFunc(list, func(a, b *foundImage) int { return strings.Compare(a.text, b.text) })
	}
	return found, suspects
}

// passedOn are the places from which a container is told what to run: there a suspect can be pinned.
var passedOn = regexp.MustCompile(`\.(?:command|args)\[\d+\]$|\.env\[\d+\]\.value$`)

// runs are the digests with which the release runs its images now, by the reference without it. A reference that is
// there with two is left out.
func (p *planner) runs() map[ref.Reference]string {
	found := map[ref.Reference]string{}
	for _, o := range p.base {
		for _, u := range extract.Find([]map[string]any{o.Object}) {
			if u.Reference.Digest == "" || u.Reference.Tag == "" {
				continue
			}
			name := u.Reference.At("")
			if other, twice := found[name]; twice && other != u.Reference.Digest {
				found[name] = ""
				continue
			}
			found[name] = u.Reference.Digest
		}
	}
	return found
}

// pin decides what each image is pinned to, and writes the objects of the plan accordingly. Nothing is asked for a tag
// but the Admission, and that once: what it says is what is installed.
func (p *planner) pin(r *rendering) error {
	plain, err := parse(r.manifest, p.Namespace, p.mapper)
	if err != nil {
		return err
	}
	p.found, p.suspects = collect(r, plain)
	running := p.runs()
	if p.request.Admission != nil {
		err = p.admit(running)
	} else {
		p.keep(running)
	}
	if err != nil {
		return err
	}
	if p.lock, err = p.locks(); err != nil {
		return err
	}
	if p.lock != nil && p.request.Admission != nil {
		p.underLock(p.lock)
		p.downgrades(p.lock)
	}
	if p.pins, err = p.pinner(); err != nil {
		return err
	}
	if p.pins == nil {
		p.objects = plain
		return nil
	}
	pinned, err := p.pins.pin(r.manifest)
	if err != nil {
		return err
	}
	p.objects, err = parse(pinned, p.Namespace, p.mapper)
	return err
}

// pinner is nil where nothing is pinned and nothing was: manifests then stay as the chart renders them.
func (p *planner) pinner() (*pinner, error) {
	pins, some := map[string]string{}, p.request.Admission != nil
	for _, i := range slices.Concat(p.found, p.suspects) {
		pins[i.text] = i.pinned()
		some = some || i.pinned() != ""
	}
	if !some {
		return nil, nil
	}
	pin := &pinner{pins: pins}
	if p.lock != nil {
		var err error
		if pin.lock, err = p.document(p.lock); err != nil {
			return nil, err
		}
	}
	return pin, nil
}

// keep pins what the release runs pinned to what it runs. So the switch of a component needs no registry, and un-pins nothing.
func (p *planner) keep(running map[ref.Reference]string) {
	var bare []string
	for _, i := range p.found {
		if i.unreadable != nil || i.reference.Digest != "" {
			continue
		}
		if i.kept = running[i.reference]; i.kept == "" {
			bare = append(bare, i.text)
		}
	}
	for _, i := range p.suspects {
		if i.passed && i.reference.Digest == "" {
			i.kept = running[i.reference]
		}
	}
	if len(running) == 0 || len(bare) == 0 {
		return
	}
	if before, err := lockIn(p.base, p.Namespace); err == nil && before != nil && before.Policy != "" && !p.request.Unverified {
		for _, text := range bare {
			p.unlocked = append(p.unlocked, RefusedImage{
				Reference: text, Outcome: string(verdict.BadPolicy), Reason: string(verdict.NoPolicy), Message: "the release was installed with a policy, and no policy is given now that says who must have signed it", Hint: verdict.NoPolicy.Hint(),
			})
		}
		return
	}
	p.warn(warnUnpinned, "the release runs images by digest, and these come by tag, which nobody has verified: "+strings.Join(bare, ", "),
		"give the policy that the release was installed with (--policy), and they are verified and pinned too")
}

// admit asks the Admission about every image, once.
func (p *planner) admit(running map[ref.Reference]string) error {
	locked := map[string]string{}
	if p.request.Lock != nil {
		for _, e := range p.request.Lock.Images {
			locked[e.Reference] = e.Digest
		}
	}
	var asked []ref.Reference
	at := map[ref.Reference]int{}
	for _, i := range append(slices.Clone(p.found), slices.DeleteFunc(slices.Clone(p.suspects), func(i *foundImage) bool { return !i.passed })...) {
		if i.unreadable != nil {
			continue
		}
		switch {
		case !i.tagged:
		case locked[i.reference.String()] != "":
			i.reference = i.reference.At(locked[i.reference.String()])
		case p.keepsPins:
			// The switch of a component upgrades nothing else: what runs is verified, not what the tag means by now.
			i.reference = i.reference.At(running[i.reference])
		}
		if _, twice := at[i.reference]; !twice {
			at[i.reference] = len(asked)
			asked = append(asked, i.reference)
		}
	}
	result := AdmissionResult{}
	if len(asked) > 0 {
		var err error
		if result, err = p.request.Admission.Admit(p.ctx, asked); err != nil {
			return fmt.Errorf("verify images: %w", err)
		}
	}
	if len(result.Images) != len(asked) {
		return &Error{Class: ClassVerification, Reason: fmt.Sprintf("verification was asked about %d images and answered for %d", len(asked), len(result.Images))}
	}
	p.enforced, p.policy = result.Enforced, result.Policy
	for _, i := range p.found {
		i.decide(result.Images, at)
		if i.refused == nil && i.unpinnable != "" && i.tagged {
			message := i.unpinnable + " come to the cluster as the chart has them, and this image has no digest there"
			const hint = "pin it by digest in the chart, or leave out what needs it"
			if p.enforced {
				i.refuse(verdict.NotAReference, message)
				i.refused.Hint = hint
			} else {
				p.warn(warnUnpinned, i.text+": "+message, hint)
			}
		}
	}
	p.suspected(result.Images, at)
	p.moved(running)
	return nil
}

// decide keeps what the Admission says of an image.
func (i *foundImage) decide(decisions []Decision, at map[ref.Reference]int) {
	if i.unreadable != nil {
		i.refuse(verdict.NotAReference, i.unreadable.Error())
		return
	}
	d := decisions[at[i.reference]]
	switch {
	case d.Admitted.Valid() && d.Admitted.Given() == i.reference:
		i.admitted = d.Admitted
	case d.Admitted.Valid():
		i.refuse(verdict.RegistryOdd, "verification answered for "+d.Admitted.Given().String())
	default:
		i.refuse(verdict.Reason(d.Reason), d.Message)
		i.refused.Outcome, i.refused.Hint = d.Outcome, d.Hint
		if d.Outcome == "" || verdict.Outcome(d.Outcome).OK() { // not admitted is never good
			i.refused.Outcome = string(verdict.Unknown)
		}
	}
}

// suspected decides about what looks like an image. What a program is told to run is verified and pinned like an image, as far
// as it turns out to be one; what stands elsewhere can only be told of.
func (p *planner) suspected(decisions []Decision, at map[ref.Reference]int) {
	var untold []string
	for _, i := range p.suspects {
		if i.passed && i.unpinnable == "" {
			i.decide(decisions, at)
			switch {
			case i.refused == nil:
				continue
			case verdict.Outcome(i.refused.Outcome) != verdict.Unknown && verdict.Outcome(i.refused.Outcome) != verdict.BadPolicy:
				p.found = append(p.found, i) // an image without doubt, and one that is refused
				continue
			}
			i.refused = nil
		}
		untold = append(untold, i.text+" ("+i.places[0]+")")
	}
	slices.SortFunc(p.found, func(a, b *foundImage) int { return strings.Compare(a.text, b.text) })
	if len(untold) > 0 {
		more := ""
		if n := len(untold) - 5; n > 0 {
			untold, more = untold[:5], fmt.Sprintf("; and %d more", n)
		}
		p.warn(warnSuspects, "these look like images and were not verified: "+strings.Join(untold, "; ")+more, "whatever runs them pulls what nobody looked at: name them by digest, or switch off what needs them")
	}
}

func (i *foundImage) refuse(reason verdict.Reason, message string) {
	i.refused = &RefusedImage{Reference: i.text, Users: i.names(), Outcome: string(reason.Outcome()), Reason: string(reason), Message: message, Hint: reason.Hint()}
	i.admitted = ref.Admitted{}
}

// moved warns of tags that mean something else than when the release was installed.
func (p *planner) moved(running map[ref.Reference]string) {
	for _, i := range p.found {
		was := running[i.reference.At("")]
		if i.admitted.Valid() && i.reference.Digest == "" && was != "" && was != i.admitted.Digest() {
			p.warn(warnMoved, fmt.Sprintf("%s was %s when the release was installed, and is %s now", i.text, was, i.admitted.Digest()),
				"tags of releases do not move: ask whoever publishes it, and name a version that was not changed afterwards")
		}
	}
}

// signatures tells what verification found. It is silent where nobody asked for it.
func (p *planner) signatures() {
	if p.request.Admission == nil && len(p.unlocked) == 0 {
		return
	}
	nodes := p.nodesOnce()
	n := map[ref.Basis]int{}
	var refused, excepted, warned, unsure []string
	hint := ""
	for _, r := range p.unlocked {
		refused = append(refused, r.String())
		hint = r.Hint
	}
	for _, i := range p.found {
		switch f := i.admitted.Facts(); {
		case i.refused != nil:
			if waiting, _ := nowhere(i.users, nodes); p.enforced && waiting {
				if off := switchOff(i); off != "" {
					i.refused.Hint = strings.TrimPrefix(i.refused.Hint+"; no node here would run it: leave out what needs it: "+off, "; ")
				}
			}
			if hint == "" {
				hint = i.refused.Hint
			}
			refused = append(refused, i.refused.String())
		case f.Basis == ref.ByException:
			excepted = append(excepted, note(i, f))
			fallthrough
		default:
			n[f.Basis]++
			switch {
			case f.Basis == ref.ByWarning:
				warned = append(warned, note(i, f))
			case f.Basis == ref.ByPolicy && f.Note != "":
				unsure = append(unsure, i.text+" ("+oneLine(f.Note)+")")
			}
		}
	}
	var said []string
	for _, s := range []struct {
		basis ref.Basis
		text  string
	}{{ref.ByPolicy, "verified"}, {ref.ByException, "excepted by the policy"}, {ref.ByWarning, "not verified"}} {
		if n[s.basis] > 0 {
			said = append(said, fmt.Sprintf("%d %s", n[s.basis], s.text))
		}
	}
	summary := strings.Join(said, ", ")
	switch {
	case len(refused) > 0 && p.enforced, len(p.unlocked) > 0:
		p.check(checkSignatures, event.Failed, strings.Join(refused, "; "), hint)
	case len(warned) > 0 || len(refused) > 0:
		p.check(checkSignatures, event.Warned, strings.Join(append(warned, refused...), "; "), "they are installed all the same: signatures are not enforced")
	case len(excepted) > 0:
		p.check(checkSignatures, event.Warned, summary+": "+strings.Join(excepted, "; "), "an exception ends by itself; take a signed version before it does")
	case len(unsure) > 0:
		p.check(checkSignatures, event.Warned, summary+", but revocation: "+strings.Join(unsure, "; "), "the policy takes it as it is (revocation: best-effort); require would refuse it")
	default:
		p.check(checkSignatures, event.OK, fmt.Sprintf("%d images: %s", len(p.found), summary), "")
	}
}

func note(i *foundImage, f ref.Facts) string {
	s := i.text + ": " + f.Outcome
	if f.Note != "" {
		s += " (" + oneLine(f.Note) + ")"
	}
	return s
}

// switchOff says how to leave out the one component that uses an image.
func switchOff(i *foundImage) string {
	label := i.users[0].component()
	for _, o := range i.users {
		if o.component() != label {
			return ""
		}
	}
	if c, ok := componentOf(label); ok && len(c.Workloads) == 1 {
		return "--set " + c.Toggle + "=false"
	}
	return ""
}

// updates refuses the nightly update of images together with pins: it puts tags in their place.
func (p *planner) updates() {
	if p.pins == nil {
		return
	}
	c, _ := component("autoUpdater")
	for _, o := range p.objects {
		if o.GetKind() != "CronJob" || !slices.Contains(c.Workloads, o.component()) && !strings.Contains(o.GetName(), c.Workloads[0]) {
			continue
		}
		message := o.String() + " replaces images every night by what their tags mean then, which nobody verifies"
		hint := "--set " + c.Toggle + "=false; an upgrade then is nopsctl install again, which verifies"
		if p.enforced {
			p.check(checkUpdates, event.Failed, message, hint)
		} else {
			p.check(checkUpdates, event.Warned, message, hint)
		}
		return
	}
	p.check(checkUpdates, event.OK, "nothing replaces images behind the release's back", "")
}

// refusal is the error of a plan with images that were refused; nil when there are none.
func (p *planner) refusal(failed []event.Check) error {
	e := &VerificationError{Failed: failed, Refused: p.unlocked}
	for _, i := range p.found {
		if i.refused != nil && p.enforced {
			e.Refused = append(e.Refused, *i.refused)
		}
	}
	if len(e.Refused) == 0 {
		return nil
	}
	return e
}

// planned is what the plan shows of an image.
func (i *foundImage) planned() PlannedImage {
	shown := PlannedImage{Reference: i.text, Pinned: i.pinned()}
	if len(i.users) > 0 {
		shown.Component = i.users[0].component()
	}
	switch f := i.admitted.Facts(); {
	case i.admitted.Valid():
		shown.Digest, shown.Basis, shown.Outcome, shown.Method, shown.Identity = f.Digest, string(f.Basis), f.Outcome, f.Method, f.Identity
		if !f.SignedAt.IsZero() {
			at := f.SignedAt.UTC().Truncate(time.Second)
			shown.SignedAt = &at
		}
	case i.kept != "":
		shown.Digest, shown.Basis = i.kept, BasisKept
	case i.refused != nil:
		shown.Outcome, shown.Reason = i.refused.Outcome, i.refused.Reason
	}
	return shown
}

// asItIs is an object that Helm applies as the chart has it.
type asItIs struct {
	where  string
	object object
}

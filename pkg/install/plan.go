package install

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	helmengine "helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/verify/lock"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// Request says what a plan is for.
type Request struct {
	// Operation names it in events; empty means "install".
	Operation string
	// Values are this command's. They are laid over what the release has stored. A null removes a default.
	Values map[string]any
	// Fresh are values that a release begins with where this command does not say otherwise: what suits this cluster. A release that is there
	// already keeps what it has.
	Fresh map[string]any
	// Credentials are laid over what the credentials Secret holds; nil leaves it as it is, an empty value removes a key.
	// They are ignored, with a warning, when the values say that the customer keeps the Secrets.
	Credentials map[string][]byte
	// ClusterARN is pinned in the cluster at first and compared ever after. Empty means: the one that is pinned.
	ClusterARN string
	// Images resolves what is rendered before the first write; nil skips that check. With an Admission it is asked for what was
	// admitted, by digest, and never for a tag.
	Images ImageResolver
	// Admission is asked, once and before the first write, about every image that is rendered. What it admits is installed by
	// digest; when it refuses one, the plan fails with a *VerificationError. Nil: nothing is verified, and images that the
	// release runs by digest keep it.
	Admission Admission
	// ChartArtifact is what the chart was admitted as, where it comes from a registry. It goes into the lock.
	ChartArtifact ref.Admitted
	// Lock makes the installation one of exactly what it holds: its digests are asked for, whatever tags mean by now, and what
	// it does not have is refused. It needs an Admission.
	Lock *lock.Lock
	// Unverified says that images may come unverified into a release that was installed with an Admission. Without it, and
	// without an Admission, a new image in such a release is refused: a policy that was left out by mistake must not count as none.
	Unverified bool
	// AllowDowngrade accepts images that were signed before those that the release runs.
	AllowDowngrade bool
	// OwnImages names the images that must be our builds, by the last element of their repository.
	OwnImages []string
	// Wait makes Apply wait until the workloads are ready.
	Wait bool
	// Timeout bounds Apply; zero means five minutes.
	Timeout time.Duration
	// Adopt takes over objects that exist and that nobody manages.
	Adopt bool
	// Recover takes a pending operation for dead, however young it is.
	Recover bool
}

// shownRequest is what of a Request may be seen: of values their paths alone, for any of them may be a credential.
type shownRequest struct {
	Operation      string        `json:"operation"`
	Values         []string      `json:"values"`
	CredentialKeys []string      `json:"credential_keys"`
	ClusterARN     string        `json:"cluster_arn"`
	OwnImages      []string      `json:"own_images"`
	Wait           bool          `json:"wait"`
	Timeout        time.Duration `json:"timeout_ns"`
	Adopt          bool          `json:"adopt"`
	Recover        bool          `json:"recover"`
	Admission      bool          `json:"admission"` // whether there is one
	AllowDowngrade bool          `json:"allow_downgrade"`
}

func (r Request) shown() shownRequest {
	values := map[string]any{}
	flatten("", r.Values, values)
	return shownRequest{r.Operation, sortedKeys(values), sortedKeys(r.Credentials), r.ClusterARN, r.OwnImages, r.Wait, r.Timeout, r.Adopt, r.Recover, r.Admission != nil, r.AllowDowngrade}
}

// String is one line; it keeps credentials out of logs and of the messages of tests.
func (r Request) String() string { return fmt.Sprintf("%+v", r.shown()) }

// GoString implements fmt.GoStringer.
func (r Request) GoString() string { return r.String() }

// MarshalJSON implements json.Marshaler.
func (r Request) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(r.shown())
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return data, nil
}

// ImageInfo is what a registry says about an image.
type ImageInfo struct {
	Digest string            // sha256:…
	Labels map[string]string // of the image's configuration
}

// ImageResolver asks a registry for an image.
type ImageResolver interface {
	Resolve(ctx context.Context, reference string) (ImageInfo, error)
}

// ImageResolverFunc is an ImageResolver.
type ImageResolverFunc func(ctx context.Context, reference string) (ImageInfo, error)

// Resolve implements ImageResolver.
func (f ImageResolverFunc) Resolve(ctx context.Context, reference string) (ImageInfo, error) {
	return f(ctx, reference)
}

// Action is what a plan does to an object.
type Action string

// The actions.
const (
	Create    Action = "create"
	Update    Action = "update"
	Delete    Action = "delete"
	Unchanged Action = "unchanged"
)

// Change is what happens to one object.
type Change struct {
	Action    Action `json:"action"`
	Object    string `json:"object"` // "Deployment nops/nops-vmagent"
	Component string `json:"component,omitempty"`
	Note      string `json:"note,omitempty"` // why, where that is not plain
}

// PlannedImage is an image that the rendered workloads use.
type PlannedImage struct {
	Component string `json:"component,omitempty"`
	Reference string `json:"reference"`        // as the chart renders it
	Pinned    string `json:"pinned,omitempty"` // what is installed in its place
	Digest    string `json:"digest,omitempty"` // of the pin; without one as the registry resolved it now, empty when it was not asked
	Basis     string `json:"basis,omitempty"`  // why it is installed: a Basis of pkg/verify/ref, or BasisKept; empty when not pinned
	Outcome   string `json:"outcome,omitempty"`
	Reason    string `json:"reason,omitempty"` // of a refusal
	Method    string `json:"method,omitempty"`
	Identity  string `json:"identity,omitempty"` // who signed it
	// SignedAt is the authentic time of the signature.
	SignedAt *time.Time `json:"signed_at,omitempty"`
}

// Plan is what Apply would do. It holds no credential in anything that can be printed or marshalled.
type Plan struct {
	Operation      string          `json:"operation"`
	Target         event.Target    `json:"target"`
	ReleaseState   string          `json:"release_state,omitempty"` // of the release now: "deployed", "failed", …; empty when there is none
	Revision       int             `json:"revision"`                // of the release now, 0 when there is none
	NoOp           bool            `json:"no_op"`
	Changes        []Change        `json:"changes"`
	ValueChanges   []ValueChange   `json:"value_changes,omitempty"`
	Images         []PlannedImage  `json:"images,omitempty"`
	CredentialKeys []string        `json:"credential_keys,omitempty"` // keys of the Secret, not their values
	Checks         []event.Check   `json:"checks"`
	Warnings       []event.Warning `json:"warnings,omitempty"`
	Consequence    string          `json:"consequence,omitempty"` // of enabling or disabling a component
	Notes          string          `json:"-"`                     // the chart's NOTES
	// Digest is equal for equal plans: same cluster, release state, chart, values, credentials and objects.
	Digest string `json:"digest"`

	request        Request
	values         map[string]any
	credentials    secretData // nil: leave the Secret alone
	source         *chart.Chart
	records        history
	fresh          bool // install, not upgrade
	recovers       bool // a dead operation is marked failed first
	changesRelease bool
	namespace      *corev1.Namespace // nil: to be made
	identity       *corev1.ConfigMap // nil: to be made
	uid            string
	objects        []object
	writesIdentity bool
	writesSecret   bool
	pins           *pinner // nil: images are as the chart renders them
	refused        error   // why the plan must not be applied
}

// String is one line; it keeps what is not exported out of logs.
func (p *Plan) String() string {
	n := map[Action]int{}
	for _, c := range p.Changes {
		n[c.Action]++
	}
	return fmt.Sprintf("%s %s/%s: %d to create, %d to update, %d to delete, %d unchanged", p.Operation, p.Target.Namespace, p.Target.Release, n[Create], n[Update], n[Delete], n[Unchanged])
}

// GoString implements fmt.GoStringer.
func (p *Plan) GoString() string { return p.String() }

// Values is a copy of the values the release will store. They hold no credential but those that NOPS-VAL-005 warns of.
func (p *Plan) Values() map[string]any { return merge(p.values, nil) }

// planner carries what the steps of one plan find out.
type planner struct {
	*Engine
	*clients
	*Plan
	ctx    context.Context
	stored map[string]any
	base   []object
	secret *corev1.Secret // the live one, nil when there is none
	// kubernetes is the version of the API server.
	kubernetes string
	// ignored are stored values that the chart does not know. The schema does not see them: they must not block adoption.
	ignored []string
	known   *known

	keepsPins bool                          // what runs pinned stays at its digest, though there is an Admission
	enforced  bool                          // an image that is refused stops the plan
	found     []*foundImage                 // images
	suspects  []*foundImage                 // what looks like images
	listNodes func() ([]corev1.Node, error) // once
	policy    string                        // hash
	lock      *lock.Lock                    // what the release is pinned to; nil: nothing
	unlocked  []RefusedImage                // what is refused, enforced or not
}

// Plan says what Apply would do, and checks that it can. It writes nothing. When a check fails the plan comes back with a
// *PreflightError, or with a *VerificationError when an image was refused, so that what was found can still be shown.
func (e *Engine) Plan(ctx context.Context, request Request) (*Plan, error) {
	return e.plan(ctx, request, nil)
}

// plan plans with the chart given, or with the engine's own when it is nil. A chart is given to change a value of what runs:
// its images then stay what they are.
func (e *Engine) plan(ctx context.Context, request Request, c *chart.Chart) (*Plan, error) {
	if request.Operation == "" {
		request.Operation = "install"
	}
	if request.Timeout <= 0 {
		request.Timeout = defaultTimeout
	}
	if request.Lock != nil && request.Admission == nil {
		return nil, &Error{Class: ClassUsage, Reason: "a lock was given, and nothing to look at images with"}
	}
	p := &planner{Engine: e, ctx: ctx, keepsPins: c != nil, Plan: &Plan{Operation: request.Operation, Changes: []Change{}, Checks: []event.Check{}, request: request, source: c}}
	err := e.step("preflight", "Checking the cluster and what would change", func() (event.Outcome, string, error) {
		err := p.run()
		return event.OK, p.Plan.String(), err
	})
	if err != nil && ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		err = &CancelledError{While: "planning", State: "nothing was changed"}
	}
	p.refused = err
	return p.Plan, err
}

func (p *planner) run() error {
	var err error
	if p.source == nil {
		if p.source, err = p.chart(); err != nil {
			return err
		}
	}
	if p.clients, err = p.connect(); err != nil {
		return err
	}
	for _, step := range []func() error{
		p.reachable, p.readRelease, p.readNamespace, p.elsewhere, p.mergeValues, p.checkIdentity, p.moveCredentials, p.render, p.checkObjects,
		p.preflight, p.compare,
	} {
		if err := step(); err != nil {
			return err
		}
		if err := p.ctx.Err(); err != nil {
			return err
		}
	}
	var failed []event.Check
	for _, c := range p.Checks {
		if c.Outcome == event.Failed {
			failed = append(failed, c)
		}
	}
	if err := p.refusal(failed); err != nil {
		return err
	}
	if len(failed) > 0 {
		return &PreflightError{Failed: failed}
	}
	return nil
}

func (p *planner) warn(id, message, hint string) {
	w := event.Warning{ID: id, Message: message, Hint: hint}
	p.Warnings = append(p.Warnings, w)
	p.Observe.Emit(w)
}

// readRelease finds out what Helm has recorded, and whether somebody holds the release.
func (p *planner) readRelease() error {
	h, err := p.history(p.ctx)
	if err != nil {
		return err
	}
	p.records = h
	p.Target = p.target("", p.source.Metadata.Version, p.request.ClusterARN)
	last := h.last()
	if last == nil {
		p.fresh = true
		p.check(checkRelease, event.OK, "not installed yet", "")
		return nil
	}
	p.ReleaseState, p.Revision = string(last.Info.Status), last.Version
	if last.Info.Status == release.StatusUninstalled {
		// Kept history is history: its values do not come back.
		p.fresh = true
		p.check(checkRelease, event.OK, "uninstalled, its history was kept", "")
		return nil
	}
	if base := h.base(); base.Chart != nil && base.Chart.Metadata != nil {
		p.Target.FromVersion = base.Chart.Metadata.Version
	}
	p.stored = last.Config
	if !unfinished(last.Info.Status) {
		p.check(checkRelease, event.OK, fmt.Sprintf("revision %d is %s", last.Version, last.Info.Status), "")
		return nil
	}
	since := last.Info.LastDeployed.Time
	if last.Info.Status == release.StatusUninstalling && !last.Info.Deleted.IsZero() {
		since = last.Info.Deleted.Time
	}
	pending := &PendingError{Release: p.Release, Revision: last.Version, Status: p.ReleaseState, Since: since, Age: p.Now().Sub(since)}
	if !p.request.Recover && pending.Age < p.PendingGrace {
		p.check(checkRelease, event.Failed, pending.Error(), pending.Hint())
		return pending
	}
	p.recovers = true
	p.check(checkRelease, event.Warned, fmt.Sprintf("revision %d is %s since %s: its operation is taken for dead and the revision will be marked failed", last.Version, last.Info.Status, since.UTC().Format(time.RFC3339)), "")
	return nil
}

func (p *planner) readNamespace() error {
	var err error
	if p.uid, err = kube.UID(p.ctx, p.typed); err != nil {
		return explain("identify the cluster", err)
	}
	p.namespace, err = p.typed.CoreV1().Namespaces().Get(p.ctx, p.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		p.namespace = nil
		return nil
	}
	if err != nil {
		return explain("read namespace "+p.Namespace, err)
	}
	if p.namespace.DeletionTimestamp != nil {
		return &Error{Class: ClassPreflight, Reason: fmt.Sprintf("namespace %s is being deleted", p.Namespace), Advice: "wait until it is gone, then run again; kubectl get namespace " + p.Namespace + " -o yaml says what holds it"}
	}
	p.identity, err = p.typed.CoreV1().ConfigMaps(p.Namespace).Get(p.ctx, IdentityConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		p.identity, err = nil, nil
	}
	if err != nil {
		return explain("read ConfigMap "+p.Namespace+"/"+IdentityConfigMap, err)
	}
	p.secret, err = p.typed.CoreV1().Secrets(p.Namespace).Get(p.ctx, CredentialsSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		p.secret, err = nil, nil
	}
	return explain("read Secret "+p.Namespace+"/"+CredentialsSecret, err)
}

// elsewhere refuses when a tool drives the release.
func (p *planner) elsewhere() error {
	last := p.records.last()
	if last == nil || last.Info.Status == release.StatusUninstalled {
		return nil
	}
	record, err := p.typed.CoreV1().Secrets(p.Namespace).Get(p.ctx, fmt.Sprintf("sh.helm.release.v1.%s.v%d", last.Name, last.Version), metav1.GetOptions{})
	if err == nil {
		whose, owner := ownerOf(record, p.Release, p.Namespace)
		if terraformed(record) {
			whose, owner = foreign, Owner{Tool: ToolTerraform}
		}
		if whose == foreign && owner.Tool != "" {
			return &ManagedElsewhereError{Object: fmt.Sprintf("release %s in namespace %s", p.Release, p.Namespace), Owner: owner}
		}
	}
	if p.base, err = parse(p.records.base().Manifest, p.Namespace, p.mapper); err != nil {
		return fmt.Errorf("manifest of revision %d: %w", p.records.base().Version, err)
	}
	return nil
}

// mergeValues lays the layers over each other and looks for values the chart does not know.
func (p *planner) mergeValues() error {
	k, err := knownValues(p.source)
	if err != nil {
		return err
	}
	p.known = k
	given := merge(p.request.Values, nil)
	if unknown := k.unknown(given); len(unknown) > 0 {
		return &UnknownValuesError{Values: unknown}
	}
	for _, u := range k.unknown(merge(p.stored, nil)) {
		p.warn("NOPS-VAL-001", "stored by the release: "+u.String(), "it has no effect; adoption keeps it")
		p.ignored = append(p.ignored, u.Path)
	}
	for _, c := range Components() {
		// The right spelling wins within one set of values, but the newer command wins over the older one.
		alias, misspelt := lookupBool(given, c.alias)
		_, spelt := lookupBool(given, c.Toggle)
		if _, before := lookupBool(p.stored, c.Toggle); misspelt && !spelt && before {
			set(given, c.Toggle, alias)
		}
	}
	if p.fresh {
		given = merge(p.request.Fresh, given)
	}
	p.values = merge(p.stored, given)
	deprecated := k.deprecated(p.values)
	for _, path := range sortedKeys(deprecated) {
		p.warn("NOPS-VAL-002", fmt.Sprintf("value %q is deprecated", path), deprecated[path])
	}
	return nil
}

// checkIdentity compares the ARN that was given with the one pinned in the cluster and the one in the values.
func (p *planner) checkIdentity() error {
	pinned, pinnedUID := "", ""
	if p.identity != nil {
		pinned, pinnedUID = p.identity.Data[identityARN], p.identity.Data[identityUID]
	}
	arn := p.request.ClusterARN
	if arn == "" {
		arn = pinned
	}
	inValues := lookupString(p.values, environmentPath)
	if arn == "" {
		arn = inValues
	}
	p.Target.ClusterARN = arn
	const advice = "check --context: it should be the cluster that the command was made for"
	refuse := func(message, hint string) error {
		p.check(checkIdentity, event.Failed, message, hint)
		return &PreflightError{Failed: p.Checks[len(p.Checks)-1:]}
	}
	switch {
	case pinned != "" && arn != pinned:
		return refuse(fmt.Sprintf("this cluster is %s (ConfigMap %s/%s), not %s", pinned, p.Namespace, IdentityConfigMap, arn), advice)
	case pinnedUID != "" && pinnedUID != p.uid:
		return refuse(fmt.Sprintf("ConfigMap %s/%s was made in another cluster: it names kube-system %s, here it is %s", p.Namespace, IdentityConfigMap, pinnedUID, p.uid),
			fmt.Sprintf("when this cluster was restored from a backup of another: kubectl --namespace %s delete configmap %s, then run again", p.Namespace, IdentityConfigMap))
	case inValues != "" && arn != inValues:
		return refuse(fmt.Sprintf("value %s is %s, the cluster is %s", environmentPath, inValues, arn), advice)
	case arn == "":
		p.check(checkIdentity, event.Unknown, "nobody says which cluster this is", "give its ARN with --cluster-arn")
		return nil
	}
	if inValues == "" {
		set(p.values, environmentPath, arn)
	}
	p.writesIdentity = pinned != arn || pinnedUID != p.uid
	p.check(checkIdentity, event.OK, arn, "")
	return nil
}

// moveCredentials takes credentials out of the values and into the Secret's data.
func (p *planner) moveCredentials() error {
	fromStored := takeCredentials(merge(p.stored, nil))
	inline := takeCredentials(p.values)
	if readsAMPFromValues(p.values) {
		if err := p.leaveAMP(inline); err != nil {
			return err
		}
		maps.DeleteFunc(fromStored, func(key string, _ []byte) bool { return isAMP(key) })
	}
	if p.secret != nil {
		if whose, owner := ownerOf(p.secret, p.Release, p.Namespace); whose == foreign || owner.Tool == ToolHelm {
			return &ManagedElsewhereError{Object: "Secret " + p.Namespace + "/" + CredentialsSecret, Owner: owner}
		}
	}
	data := secretData{}
	if p.secret != nil {
		maps.Copy(data, p.secret.Data)
	}
	maps.Copy(data, inline)
	for k, v := range p.request.Credentials {
		switch {
		case len(v) == 0:
			delete(data, k)
		case isAMP(k) && hasRole(p.values): // a key that nobody needs is one more to lose
		default:
			data[k] = v
		}
	}
	theirs := customersSecrets(p.values)
	if len(fromStored) > 0 {
		where := "move to Secret " + p.Namespace + "/" + CredentialsSecret
		if len(theirs) > 0 {
			where = "are not used and leave them"
		}
		p.warn("NOPS-VAL-003", fmt.Sprintf("credentials found in the release's values %s; old revisions still hold them: %s", where, p.revisionsWithCredentials()),
			"whoever can read the release's Secrets can read them: rotate the keys and delete those revisions")
	}
	if len(theirs) > 0 {
		if len(p.request.Credentials) > 0 || len(inline) > 0 {
			hint := "remove customerManagedSecrets from the values to let nopsctl keep them"
			if external(p.values) {
				hint = "set externalSecrets.enabled=false to let nopsctl keep them"
			}
			p.warn("NOPS-VAL-004", "the values say that you keep the credentials ("+strings.Join(theirs, ", ")+"): the ones given here are not used", hint)
		}
		return nil
	}
	if len(data) == 0 {
		return nil
	}
	p.credentials, p.CredentialKeys = data, sortedKeys(data)
	p.writesSecret = p.secret == nil || !maps.EqualFunc(data, p.secret.Data, slices.Equal)
	refer(p.values, data)
	const revision = "nops.credentialsRevision" // ours; a chart published before it refuses it
	if _, known := slices.BinarySearch(p.known.paths, revision); known {
		set(p.values, revision, revisionOf(data, p.uid))
	}
	return nil
}

// revisionsWithCredentials names the recorded revisions that hold credentials among their values.
func (p *planner) revisionsWithCredentials() string {
	var old []string
	for _, r := range p.records {
		if holdsCredentials(r.Config) {
			old = append(old, fmt.Sprint(r.Version))
		}
	}
	return strings.Join(old, ", ")
}

// elsewhereForAMP says where the keys of the metrics store belong when External Secrets brings the others.
const elsewhereForAMP = "put AMP_ACCESS_KEY and AMP_SECRET_KEY into an entry of the store and name it in " + pathAMPEntry +
	", or give vmagent a role (containerInsights.serviceAccount.annotations or containerInsights.podIdentity.enabled)"

// leaveAMP leaves the keys of the metrics store in the values of a release that has them there, since without them it would
// not work any more. New ones are refused: whatever is among the values can be read in Helm's release Secrets.
func (p *planner) leaveAMP(inline secretData) error {
	var left, added []string
	for path, key := range map[string]string{pathAMPAccess: KeyAMPAccess, pathAMPSecret: KeyAMPSecret} {
		switch given := string(inline[key]); {
		case given == "":
		case given == credentialAt(p.stored, path):
			set(p.values, path, given)
			delete(inline, key)
			left = append(left, path)
		default:
			added = append(added, path)
		}
	}
	slices.Sort(left)
	slices.Sort(added)
	if len(added) > 0 {
		return &Error{Class: ClassUsage, Reason: strings.Join(added, " and ") + ": with externalSecrets the chart would read them from the values, where they stay readable in Helm's release Secrets", Advice: elsewhereForAMP}
	}
	if len(left) > 0 {
		p.warn("NOPS-VAL-005", fmt.Sprintf("%s stay in the release's values: with externalSecrets the chart reads them from there; revisions that hold them: %s", strings.Join(left, " and "), p.revisionsWithCredentials()),
			elsewhereForAMP+"; then rotate the keys: whoever can read the release's Secrets can read them")
	}
	return nil
}

// revisionOf changes when the data does, so that pods restart for a rotated key, and says nothing about it: keyed by what
// no other cluster has, it cannot be compared between clusters.
func revisionOf(data secretData, uid string) string {
	mac := hmac.New(sha256.New, []byte("nops.credentialsRevision/"+uid))
	for _, k := range sortedKeys(data) {
		fmt.Fprintf(mac, "%d:%s%d:", len(k), k, len(data[k]))
		mac.Write(data[k])
	}
	return hex.EncodeToString(mac.Sum(nil))[:16]
}

// rendering is what comes out of a chart.
type rendering struct {
	manifest  string
	notes     string
	asTheyAre []asItIs // what Helm applies without its post-renderer: hooks, and what is in crds/
}

// render makes the manifest exactly as Helm will, with the capabilities of the cluster, and pins its images.
func (p *planner) render() error {
	r, err := p.rendered()
	if err != nil {
		return err
	}
	p.Notes = r.notes
	return p.pin(r)
}

// rendered is the manifest as Helm will make it, with no image pinned yet.
func (p *planner) rendered() (*rendering, error) {
	// The chart in the plan stays as it was read: processing dependencies changes it.
	c := *p.source
	values := merge(p.values, nil)
	if err := chartutil.ProcessDependenciesWithMerge(&c, values); err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Name(), err)
	}
	caps, err := p.capabilities()
	if err != nil {
		return nil, err
	}
	options := chartutil.ReleaseOptions{Name: p.Release, Namespace: p.Namespace, Revision: p.Revision + 1, IsInstall: p.fresh, IsUpgrade: !p.fresh}
	if err := p.validate(&c, values); err != nil {
		return nil, err
	}
	r, err := renderChart(helmengine.New(p.config), &c, values, options, caps, p.Namespace, p.mapper)
	if err != nil {
		var failed *Error
		if errors.As(err, &failed) && readsAMPFromValues(p.values) && strings.Contains(err.Error(), pathAMPEntry) {
			failed.Advice = elsewhereForAMP + "; keys given to this command are not used"
		}
	}
	return r, err
}

// renderChart renders a chart whose dependencies were processed.
func renderChart(e helmengine.Engine, c *chart.Chart, values map[string]any, options chartutil.ReleaseOptions, caps *chartutil.Capabilities, namespace string, mapper meta.RESTMapper) (*rendering, error) {
	all, err := chartutil.ToRenderValuesWithSchemaValidation(c, values, options, caps, true)
	if err != nil {
		return nil, &Error{Class: ClassUsage, Reason: "values do not fit the chart", Err: err}
	}
	files, err := e.Render(c, all)
	if err != nil {
		return nil, &Error{Class: ClassUsage, Reason: "render chart " + c.Name(), Err: err}
	}
	r := &rendering{}
	for name := range files {
		if !strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		if name == path.Join(c.Name(), "templates", "NOTES.txt") {
			r.notes = files[name]
		}
		delete(files, name)
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, fmt.Errorf("render chart %s: %w", c.Name(), err)
	}
	var manifest strings.Builder
	for _, m := range manifests {
		fmt.Fprintf(&manifest, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	r.manifest = manifest.String()
	texts := map[string]string{}
	for _, h := range hooks {
		texts["hooks ("+h.Path+")"] += "\n---\n" + h.Manifest
	}
	for _, crd := range c.CRDObjects() {
		texts["objects in crds/ ("+crd.Filename+")"] += "\n---\n" + string(crd.File.Data)
	}
	for _, where := range sortedKeys(texts) {
		objects, err := parse(texts[where], namespace, mapper)
		if err != nil {
			return nil, fmt.Errorf("chart %s: %s: %w", c.Name(), where, err)
		}
		for _, o := range objects {
			r.asTheyAre = append(r.asTheyAre, asItIs{where, o})
		}
	}
	return r, nil
}

// validate holds the values against the chart's schema.
func (p *planner) validate(c *chart.Chart, values map[string]any) error {
	seen := merge(values, nil)
	for _, path := range p.ignored {
		remove(seen, path)
	}
	all, err := chartutil.CoalesceValues(c, seen)
	if err == nil {
		err = chartutil.ValidateAgainstSchema(c, all)
	}
	if err != nil {
		return &Error{Class: ClassUsage, Reason: "values do not fit the chart", Err: errors.New(oneLine(err.Error()))}
	}
	return nil
}

func (p *planner) capabilities() (*chartutil.Capabilities, error) {
	client, err := p.Getter.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	version, err := client.ServerVersion()
	if err != nil {
		return nil, explain("read the version of the API server", err)
	}
	apis, err := action.GetVersionSet(client)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, explain("read the APIs of the cluster", err)
	}
	return &chartutil.Capabilities{
		APIVersions: apis,
		KubeVersion: chartutil.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor},
		HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
	}, nil
}

// checkObjects looks at what is there under the names that were rendered.
func (p *planner) checkObjects() error {
	base := map[string]object{}
	for _, o := range p.base {
		base[o.id()] = o
	}
	var conflicts, unserved []string
	for _, o := range p.objects {
		change := Change{Action: Create, Object: o.String(), Component: o.component()}
		if o.mapping == nil {
			unserved = append(unserved, o.GroupVersionKind().String())
			continue
		}
		live, err := p.resource(o).Get(p.ctx, o.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			if _, was := base[o.id()]; was {
				change.Note = "it is gone from the cluster"
			}
		case apierrors.IsForbidden(err):
			change.Note = "whether it exists could not be read" // the permission check says so too
		case err != nil:
			return explain("read "+o.String(), err)
		default:
			switch whose, owner := ownerOf(live, p.Release, p.Namespace); {
			case whose == foreign:
				return &ManagedElsewhereError{Object: o.String(), Owner: owner}
			case whose == free && !p.request.Adopt:
				conflicts = append(conflicts, o.String())
			case whose == free:
				change.Note = "it exists and is adopted"
			}
			change.Action = Update
			if was, ok := base[o.id()]; ok && sameObject(was, o) && p.owns(live) {
				change.Action = Unchanged
			}
		}
		p.Changes = append(p.Changes, change)
		delete(base, o.id())
	}
	for _, id := range sortedKeys(base) {
		o := base[id]
		if o.mapping == nil || o.keeps() {
			continue
		}
		if _, err := p.resource(o).Get(p.ctx, o.GetName(), metav1.GetOptions{}); err == nil {
			p.Changes = append(p.Changes, Change{Action: Delete, Object: o.String(), Component: o.component()})
		}
	}
	switch {
	case len(unserved) > 0:
		p.check(checkOwnership, event.Failed, "this cluster does not serve "+strings.Join(unserved, ", "), "install first what serves them (external-secrets.io: External Secrets Operator), or leave out what asks for them")
	case len(conflicts) > 0:
		p.check(checkOwnership, event.Failed, "these exist already and nobody's name is on them: "+strings.Join(conflicts, ", "), "remove them, or take them over with --adopt")
	default:
		p.check(checkOwnership, event.OK, fmt.Sprintf("%d objects, none of them managed by somebody else", len(p.objects)), "")
	}
	return nil
}

func (e *Engine) owns(live metav1.Object) bool {
	w, _ := ownerOf(live, e.Release, e.Namespace)
	return w == ours
}

// compare decides whether anything has to be done.
func (p *planner) compare() error {
	last := p.records.last()
	var before map[string]any
	if !p.fresh {
		before = last.Config
		p.changesRelease = p.recovers || last.Info.Status != release.StatusDeployed || !equalValues(before, p.values) || last.Chart == nil ||
			last.Chart.Metadata.Version != p.source.Metadata.Version || last.Chart.Metadata.AppVersion != p.source.Metadata.AppVersion
	} else {
		p.changesRelease = true
	}
	if err := p.drift(); err != nil {
		return err
	}
	p.ValueChanges = valueChanges(before, p.values)
	for _, c := range p.Changes {
		p.changesRelease = p.changesRelease || c.Action != Unchanged
	}
	ns := p.Namespace
	for _, s := range []struct {
		absent, writes bool
		object, note   string
	}{
		{p.namespace == nil, false, "Namespace " + ns, "pods of the node exporter use the host's network: Pod Security level privileged"},
		{p.identity == nil, p.writesIdentity, "ConfigMap " + ns + "/" + IdentityConfigMap, ""},
		{p.secret == nil, p.writesSecret, "Secret " + ns + "/" + CredentialsSecret, strings.Join(p.CredentialKeys, ", ")},
	} {
		switch {
		case s.absent && (s.writes || s.object == "Namespace "+ns):
			p.Changes = append(p.Changes, Change{Action: Create, Object: s.object, Note: s.note})
		case s.writes:
			p.Changes = append(p.Changes, Change{Action: Update, Object: s.object, Note: s.note})
		case !s.absent && s.object != "Namespace "+ns:
			p.Changes = append(p.Changes, Change{Action: Unchanged, Object: s.object})
		}
	}
	sort.SliceStable(p.Changes, func(i, j int) bool { return p.Changes[i].Object < p.Changes[j].Object })
	p.NoOp = !p.changesRelease && !p.writesIdentity && !p.writesSecret && p.namespace != nil

	sum := sha256.New()
	for _, part := range []any{p.uid, ns, p.Release, p.ReleaseState, p.Revision, p.source.Metadata.Version, p.source.Metadata.AppVersion, p.Target.ClusterARN, p.values, p.Changes} {
		sum.Write(canonical(part))
		sum.Write([]byte{0})
	}
	for _, o := range p.objects {
		if o.GetKind() != "ConfigMap" || o.GetName() != LockConfigMap { // it says when it was written; what else it says is in the images
			sum.Write(canonical(o.Object))
		}
	}
	if p.lock != nil {
		undated := *p.lock
		undated.Written = time.Time{}
		sum.Write(canonical(undated))
	}
	p.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return nil
}

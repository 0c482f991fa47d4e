package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime/schema"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/pkg/connectivity"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

type installOptions struct {
	f       *Factory
	cluster clusterFlags
	key     keyFlags
	values  valueFlags
	amp     ampFlags
	show    faceFlags
	admit   admitFlags

	chart            string
	clusterARN       string
	clusterID        string
	timeout          time.Duration
	connectivityWait time.Duration
	yes              bool
	dryRun           bool
	skipConnectivity bool
	wait             bool
	adopt            bool
	recover          bool
	output           string
}

// ampFlags are for users whose platform does not hand out the metrics workspace.
type ampFlags struct {
	id, region, access, secretFile string
}

func newInstallCommand(f *Factory, runF func(context.Context, *installOptions) error) *cobra.Command {
	o := &installOptions{f: f}
	cmd := &cobra.Command{
		Use:     "install",
		Aliases: []string{"upgrade"},
		Short:   "Install or upgrade the stack, and prove that data flows",
		Long: `Installs the stack, or upgrades it: the same command does both and may be repeated. A release made by helm is adopted
with its values; helm keeps working on it.

The API key is all it needs. The cluster's ARN comes from the kubeconfig, everything else from the nOps API. The agents get
a key of their own, for this cluster only. Credentials go into a Kubernetes Secret, never into Helm values.

Nothing is written before preflight has passed. At a terminal it asks before it changes anything.`,
		Example: `  nopsctl install --api-key-file key.txt
  op read op://vault/nops/key | nopsctl install --api-key-stdin --yes
  nopsctl install -f values.yaml --set containerInsights.enabled=false
  nopsctl install --dry-run                      what would change
  nopsctl install --registry-mirror public.ecr.aws=registry.example.com/public-ecr`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return installRun(cmd.Context(), o)
		},
	}
	fs := cmd.Flags()
	o.key.bind(cmd)
	o.cluster.bind(cmd)
	o.values.bind(cmd)
	o.show.bind(cmd)
	fs.StringVar(&o.clusterARN, "cluster-arn", "", "ARN of the EKS cluster, where the kubeconfig does not say it")
	fs.StringVar(&o.clusterID, "cluster-id", "", "nOps cluster id, where the nOps API does not say it")
	fs.StringVar(&o.amp.id, "amp-id", "", "metrics workspace (Amazon Managed Prometheus), instead of the one the nOps API names")
	fs.StringVar(&o.amp.region, "amp-region", "", "its region")
	fs.StringVar(&o.amp.access, "amp-access-key", "", "its access key id")
	fs.StringVar(&o.amp.secretFile, "amp-secret-key-file", "", "file that holds its secret access key (also: $"+EnvAMPSecretKey+")")
	o.admit.bind(cmd)
	fs.StringVar(&o.chart, "chart", "", "install this chart instead of the one inside nopsctl: oci://REGISTRY/REPOSITORY[:TAG][@DIGEST], verified as images are, or a directory or archive")
	fs.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long to wait for the workloads")
	fs.DurationVar(&o.connectivityWait, "connectivity-wait", 2*time.Minute, "how long to wait for the first heartbeat and sample")
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	fs.BoolVar(&o.dryRun, "dry-run", false, "show what would change and change nothing")
	fs.BoolVar(&o.skipConnectivity, "skip-connectivity", false, "leave out the connectivity test at the end")
	fs.BoolVar(&o.wait, "wait", true, "wait until the workloads are ready")
	fs.BoolVar(&o.adopt, "adopt", false, "take over objects that exist and that nobody manages")
	fs.BoolVar(&o.recover, "recover", false, "take an operation that still holds the release for dead")
	outputFlag(cmd, &o.output, "text", "json", "jsonl")
	return cmd
}

// installAnswer is the JSON of install -o json.
type installAnswer struct {
	SchemaVersion int                  `json:"schema_version"`
	DryRun        bool                 `json:"dry_run,omitempty"`
	Plan          *install.Plan        `json:"plan,omitempty"`
	Result        *install.Result      `json:"result,omitempty"`
	Connectivity  *connectivity.Report `json:"connectivity,omitempty"`
	Error         *answerError         `json:"error,omitempty"`
}

// installer carries what the steps of one installation share.
type installer struct {
	*installOptions
	op            *operation
	answer        installAnswer
	session       *session
	given         map[string]any // by -f and --set
	bundle        []byte
	source        oci.Shelf
	admission     install.Admission
	chartArtifact ref.Admitted
	key           apiKey
	platform      *nopsclient.Client
	arn           string
	config        nopsapi.InstallConfig
	offered       bool // the platform speaks the contract
	agentKey      string
	mint          bool // the agents need a new key
	muted         bool // the same checks twice are told once
}

func installRun(ctx context.Context, o *installOptions) error {
	if err := checkOutput(o.output, "text", "json", "jsonl"); err != nil {
		return err
	}
	in := &installer{installOptions: o, answer: installAnswer{SchemaVersion: 1, DryRun: o.dryRun}}
	in.op = o.f.operation("install", o.cluster, o.output, o.f.face(o.output, o.show, false))
	in.op.closing.DryRun = o.dryRun
	return in.op.run(func() error { return in.install(ctx) }, in.json, in.text)
}

// json is the answer with -o json: as far as the installation came.
func (in *installer) json(failed *answerError) any {
	in.answer.Error = failed
	return in.answer
}

func (in *installer) text(err error) {
	switch {
	case err != nil:
	case in.dryRun:
		in.showPlan(in.answer.Plan)
	default:
		in.receipt(in.answer)
	}
}

func (in *installer) install(ctx context.Context) error {
	started := in.f.Now()
	for _, step := range []func(context.Context) error{in.inputs, in.open, in.whoAmI, in.identify, in.onboard, in.agents} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	request, err := in.request()
	if err != nil {
		return err
	}
	if in.admission == nil {
		in.op.Observe(in.admit.unverified())
	}
	plan, err := in.session.engine.Plan(ctx, request)
	in.planned(plan)
	if err != nil {
		return in.explainPlan(err)
	}
	if in.dryRun {
		in.op.nothingChanged()
		return nil
	}
	if !plan.NoOp {
		in.announce("About to "+map[bool]string{true: "install", false: "upgrade"}[plan.Revision == 0]+" the nOps Kubernetes agent stack", plan)
		if err := in.f.confirm(ctx, in.yes, false, "install"); err != nil {
			return err
		}
	}
	plan, err = in.mintKey(ctx, plan)
	in.planned(plan)
	if err != nil {
		return err
	}
	in.answer.Result, err = in.session.engine.Apply(ctx, plan)
	if err == nil && !in.skipConnectivity && in.wait {
		err = in.prove(ctx, started)
	}
	return err
}

// planned keeps a plan for the answer; one that failed says which checks did.
func (in *installer) planned(plan *install.Plan) {
	if plan != nil {
		in.answer.Plan = plan
		in.op.learn(plan.Target)
	}
}

// announce tells what is about to be touched: always before a question, otherwise unless quiet.
func (in *installer) announce(what string, plan *install.Plan) {
	if in.show.quiet && (in.yes || !in.f.IO.CanPrompt()) {
		return
	}
	in.f.announce(what, in.session.facts, plan.Target)
	fmt.Fprintf(in.f.IO.ErrOut, "  %-10s %s\n", "changes", changes(plan))
}

// inputs reads all that the command line names, so that a mistake in it is found before anything is asked or changed.
func (in *installer) inputs(ctx context.Context) error {
	var err error
	if in.bundle, err = in.f.bundleOf(in.installOptions.key); err != nil {
		return err
	}
	if err = in.admit.read(in.f, in.bundle); err != nil {
		return err
	}
	if in.source, err = in.f.source(&in.admit.trustFlags); err != nil {
		return err
	}
	if in.admission, err = in.f.admission(&in.admit, in.source, in.op); err != nil {
		return err
	}
	if in.given, err = in.values.parse(ctx, in.f); err != nil {
		return err
	}
	if in.clusterARN != "" {
		if _, err := kube.ParseARN(in.clusterARN); err != nil {
			return &failure{class: "usage", reason: "--cluster-arn", err: err}
		}
	}
	return nil
}

func (in *installer) open(ctx context.Context) error {
	chart, err := in.loadChart(ctx)
	if err != nil {
		return err
	}
	in.session, err = in.f.openWith(in.cluster, chart, func(e event.Event) {
		if !in.muted {
			in.op.Observe(e)
		}
	})
	if err == nil {
		in.op.learn(reached(in.session.facts))
	}
	return err
}

// step tells a step of this package, as engines tell theirs.
func (in *installer) step(id, title string, do func() (string, error)) error {
	start := in.f.Now()
	in.op.Observe(event.StepStarted{Step: id, Title: title})
	message, err := do()
	finished := event.StepFinished{Step: id, Title: title, Outcome: event.OK, Message: message, Duration: in.f.Now().Sub(start)}
	switch {
	case errors.Is(err, context.Canceled):
		finished.Outcome, finished.Message = event.Cancelled, ""
	case err != nil:
		finished.Outcome, finished.Message = event.Failed, err.Error()
	}
	in.op.Observe(finished)
	return err
}

// whoAmI shows the key to the platform before anything else: a wrong one must change nothing.
func (in *installer) whoAmI(ctx context.Context) error {
	var err error
	if fromValues := valueKey(in.given); fromValues.secret != "" {
		// The published ways of giving it. The engine moves it out of the values.
		in.f.IO.Redactor().Add(fromValues.secret)
		if in.key, err = in.f.readKey(ctx, in.installOptions.key); err == nil && in.key.secret == "" {
			in.key = fromValues
			err = checkKey(in.key)
		}
	} else {
		in.key, err = in.f.requireKey(ctx, in.installOptions.key)
	}
	if err != nil {
		return err
	}
	if in.platform, err = in.f.platform(in.installOptions.key, in.key.secret); err != nil {
		return err
	}
	return in.step("api-key", "Checking the API key with "+in.platform.Host(), func() (string, error) {
		who, err := in.platform.WhoAmI(ctx)
		switch {
		case err == nil:
			in.offered = true
			return fmt.Sprintf("customer %s", who.CustomerID), nil
		case notOffered(err):
			return in.publicAPI(ctx)
		case nopsclient.IsKind(err, nopsclient.KindUnauthorized):
			return "", &failure{class: "auth", reason: "the API key from " + in.key.source + " is not accepted", err: err, advice: "take a valid key from nOps under Settings → API Key; nothing was changed"}
		}
		return "", fmt.Errorf("nothing was changed: %w", err)
	})
}

// notOffered says whether a host answers without knowing this contract. A call that was cancelled is no answer.
func notOffered(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	return nopsclient.IsKind(err, nopsclient.KindNotOffered) || nopsclient.IsKind(err, nopsclient.KindProtocol)
}

// publicAPI checks the key with what is public, on a host that does not serve this project's contract.
func (in *installer) publicAPI(ctx context.Context) (string, error) {
	_, err := in.platform.PublicClusters(ctx, 10)
	switch {
	case nopsclient.IsKind(err, nopsclient.KindUnauthorized):
		return "", &failure{class: "auth", reason: "the API key from " + in.key.source + " is not accepted", err: err, advice: "take a valid key from nOps under Settings → API Key; nothing was changed"}
	case notOffered(err):
		// A captive portal, a proxy's error page, a typing mistake: a key must not be installed unchecked.
		return "", &failure{class: "preflight", reason: "nothing was changed: " + in.platform.Host() + " answers neither as this project's contract nor as the public nOps API says", err: err,
			advice: "check --host and " + EnvHost + ", and whether a proxy or portal answers in its place"}
	case err != nil:
		return "", fmt.Errorf("nothing was changed: %w", err)
	}
	in.op.Observe(event.Warning{
		ID: "NOPS-CLI-001", Message: in.platform.Host() + " does not offer this project's contract: it hands out no metrics workspace and no key for the agents",
		Hint: "give --amp-id, --amp-region, --amp-access-key, --amp-secret-key-file and --cluster-id as nOps shows them for this cluster; the agents use the given API key",
	})
	return "accepted", nil
}

// identify finds out which cluster this is.
func (in *installer) identify(context.Context) error {
	detected, valued := in.session.facts.ClusterARN, valueARN(in.given)
	in.arn = in.clusterARN
	if in.arn == "" {
		in.arn = detected
	}
	if in.arn == "" {
		in.arn = valued
	}
	for _, other := range []struct{ arn, where string }{{detected, "the kubeconfig"}, {valued, "the values"}} {
		if other.arn != "" && in.arn != other.arn {
			return usageHint("check --context and --cluster-arn: one of them means another cluster", "the cluster is %s by %s and %s otherwise", other.arn, other.where, in.arn)
		}
	}
	if in.arn == "" {
		hint := "give it with --cluster-arn; aws eks describe-cluster --name NAME --query cluster.arn prints it"
		if h := in.session.facts.ARNHint; h != "" {
			hint = h + "; " + hint
		}
		return usageHint(hint, "context %q does not tell the cluster's ARN", in.session.facts.Context)
	}
	if _, err := kube.ParseARN(in.arn); err != nil {
		return &failure{class: "usage", err: err}
	}
	return nil
}

// onboard registers the cluster and fetches what an installation needs.
func (in *installer) onboard(ctx context.Context) error {
	if !in.offered {
		return nil
	}
	return in.step("platform", "Registering the cluster and fetching its configuration", func() (string, error) {
		if !in.dryRun {
			if _, err := in.platform.RegisterCluster(ctx, in.arn); err != nil {
				return "", fmt.Errorf("register cluster %s: %w", in.arn, err)
			}
		}
		config, err := in.platform.InstallConfig(ctx, in.arn)
		if err != nil && in.dryRun && nopsclient.IsKind(err, nopsclient.KindNotFound) {
			in.config = nopsapi.InstallConfig{ClusterARN: in.arn, AMP: nopsapi.AMPConfig{WorkspaceID: "ws-known-after-registration", Region: region(in.arn), AccessKeyID: placeholder, SecretAccessKey: placeholder}}
			return "the cluster is not registered yet; a dry run does not register it", nil
		}
		if err != nil {
			return "", fmt.Errorf("read the install configuration of %s: %w", in.arn, err)
		}
		in.f.IO.Redactor().Add(config.AMP.SecretAccessKey, config.DatadogAPIKey)
		in.config = config
		return config.AMP.String(), nil
	})
}

// placeholder stands for what a dry run does not ask for.
const placeholder = "known-after-registration"

func region(arn string) string {
	a, err := kube.ParseARN(arn)
	if err != nil {
		return ""
	}
	return a.Region
}

// agents finds the key the agents use: the one they have, while it is good for this cluster; else a new one, later.
func (in *installer) agents(ctx context.Context) error {
	if customersKeys(in.given) {
		return nil
	}
	stored, err := in.session.engine.Credentials(ctx)
	if err != nil {
		return err
	}
	for _, secret := range stored {
		in.f.IO.Redactor().Add(string(secret))
	}
	have := string(stored[install.KeyAPI])
	if !in.offered {
		in.agentKey = in.key.secret
		return nil
	}
	if have != "" {
		good, err := in.usable(ctx, have)
		if err != nil {
			return err
		}
		if good {
			in.agentKey = have
			return nil
		}
	}
	in.agentKey, in.mint = placeholder, true
	return nil
}

// mintKey makes the agents' key and plans anew with it. It comes after preflight and the question: a key that was made for
// nothing stays valid, and the person's key may not be allowed to revoke it.
func (in *installer) mintKey(ctx context.Context, plan *install.Plan) (*install.Plan, error) {
	if !in.mint || len(plan.CredentialKeys) == 0 { // the customer keeps the agents' key
		return plan, nil
	}
	err := in.step("agent-key", "Making a key for the agents of this cluster", func() (string, error) {
		key, err := in.platform.CreateAgentKey(ctx, in.arn)
		if err != nil {
			return "", fmt.Errorf("make a key for the agents of %s: %w", in.arn, err)
		}
		in.f.IO.Redactor().Add(key.Key)
		in.agentKey = key.Key
		return key.ID, nil
	})
	if err != nil {
		return plan, err
	}
	request, err := in.request()
	if err != nil {
		return plan, err
	}
	in.muted = true
	defer func() { in.muted = false }()
	return in.session.engine.Plan(ctx, request)
}

// usable asks the platform whether the key the agents have still does.
func (in *installer) usable(ctx context.Context, key string) (bool, error) {
	client, err := in.f.platform(in.installOptions.key, key)
	if err != nil {
		return false, err
	}
	who, err := client.WhoAmI(ctx)
	switch {
	case nopsclient.IsKind(err, nopsclient.KindUnauthorized), nopsclient.IsKind(err, nopsclient.KindForbidden):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("check the agents' key: %w", err)
	}
	return who.ClusterARN == in.arn, nil
}

// request puts together what the engine plans with: what the platform says below what the user says.
func (in *installer) request() (install.Request, error) {
	values := map[string]any{}
	setPath(values, "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN", in.arn)
	if host := in.platform.Host(); host != nopsapi.DefaultHost {
		setPath(values, "nops.host", host)
	}
	if len(in.bundle) > 0 {
		setPath(values, "nops.global.caBundle", string(in.bundle))
	}
	setString(values, "containerInsights.ampID", first(in.amp.id, in.config.AMP.WorkspaceID))
	setString(values, "containerInsights.ampRegion", first(in.amp.region, in.config.AMP.Region))
	setString(values, "karpenops.clusterId", first(in.clusterID, in.config.ClusterID))
	for _, m := range in.admit.mirrored {
		if m.From == publicRegistry {
			setPath(values, "nops.global.imageRegistry", m.To)
		}
	}
	credentials, err := in.credentials()
	if err != nil {
		return install.Request{}, err
	}
	own, err := ownImages()
	if err != nil {
		return install.Request{}, err
	}
	return install.Request{
		Operation: "install", Values: overlay(values, in.given), Fresh: in.session.fresh(), Credentials: credentials, ClusterARN: in.arn,
		Images: resolver(in.source, in.admit.mirrored), Admission: in.admission, AllowDowngrade: in.admit.allowDowngrade, Unverified: in.admit.asked == "off", Lock: in.admit.lock, ChartArtifact: in.chartArtifact,
		OwnImages: own, Wait: in.wait, Timeout: in.timeout, Adopt: in.adopt, Recover: in.recover,
	}, nil
}

// fresh are the values that a new release begins with in this cluster: karpenops where there is a Karpenter that it can work with. It
// touches no NodePool that did not opt in. Where the API server cannot be asked, preflight says so.
func (s *session) fresh() map[string]any {
	mapper, err := s.cluster.ToRESTMapper()
	if err != nil {
		return nil
	}
	if _, err := mapper.RESTMapping(schema.GroupKind{Group: "karpenter.sh", Kind: "NodePool"}, "v1"); err != nil {
		return nil
	}
	values := map[string]any{}
	setPath(values, "karpenops.enabled", true)
	return values
}

// ownImages names the images that must be our builds, whether this release has their programs or not: what a registry has
// under such a name is not taken for ours.
func ownImages() ([]string, error) {
	images, err := embeddedchart.Images()
	if err != nil {
		return nil, err
	}
	var own []string
	for _, i := range images {
		if i.Ours {
			own = append(own, i.Repository[strings.LastIndex(i.Repository, "/")+1:])
		}
	}
	slices.Sort(own) // a request is the same every time
	return slices.Compact(own), nil
}

func (in *installer) credentials() (map[string][]byte, error) {
	if customersKeys(in.given) {
		return nil, nil
	}
	secret := in.config.AMP.SecretAccessKey
	if s := in.f.Env(EnvAMPSecretKey); s != "" {
		secret = s
	}
	if in.amp.secretFile != "" {
		data, err := in.f.ReadFile(in.amp.secretFile)
		if err != nil {
			return nil, &failure{class: "usage", reason: "--amp-secret-key-file", err: err}
		}
		if secret = strings.TrimSpace(string(data)); secret == "" {
			return nil, usage("--amp-secret-key-file %s is empty", in.amp.secretFile)
		}
	}
	if secret != placeholder { // which is no secret, and stands in the plan of a dry run
		in.f.IO.Redactor().Add(secret)
	}
	credentials := map[string][]byte{}
	for _, c := range []struct{ key, value, path string }{
		{install.KeyAPI, in.agentKey, "nops.apiKey"},
		{install.KeyAMPAccess, first(in.amp.access, in.config.AMP.AccessKeyID), "containerInsights.ampAccessKey"},
		{install.KeyAMPSecret, secret, "containerInsights.ampSecretKey"},
		{install.KeyDatadog, in.config.DatadogAPIKey, "datadog.apiKey"},
	} {
		// What the user gave as a value wins; the engine moves it to the Secret. The person's API key is not for agents.
		if s, _ := lookup(in.given, c.path).(string); s != "" && c.key != install.KeyAPI {
			continue
		}
		if c.value != "" {
			credentials[c.key] = []byte(c.value)
		}
	}
	return credentials, nil
}

// explainPlan adds what the command line can do about it.
func (in *installer) explainPlan(err error) error {
	if !in.offered && CodeOf(err) == CodeUsage && in.amp.id == "" {
		return &failure{class: "usage", err: err, advice: "this platform hands out no metrics workspace: give --amp-id, --amp-region, --amp-access-key and --amp-secret-key-file as nOps shows them for this cluster"}
	}
	return err
}

func changes(p *install.Plan) string {
	n := map[install.Action]int{}
	for _, c := range p.Changes {
		n[c.Action]++
	}
	var parts []string
	for _, a := range []install.Action{install.Create, install.Update, install.Delete, install.Unchanged} {
		if n[a] == 0 {
			continue
		}
		switch a {
		case install.Unchanged:
			parts = append(parts, fmt.Sprintf("%d unchanged", n[a]))
		default:
			parts = append(parts, fmt.Sprintf("%d to %s", n[a], a))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// showPlan is the answer of a dry run.
func (in *installer) showPlan(p *install.Plan) {
	out, s := in.f.IO.Out, in.f.styleOut()
	fmt.Fprintf(out, "%s\n", s.Bold("Dry run: nothing was changed"))
	fmt.Fprintf(out, "  release    %s in namespace %s, %s\n  cluster    %s\n  changes    %s\n\n", p.Target.Release, p.Target.Namespace, versions(p.Target), p.Target.ClusterARN, changes(p))
	for _, c := range p.Changes {
		sign := map[install.Action]string{install.Create: s.Good("+"), install.Update: s.Warning("~"), install.Delete: s.Bad("-"), install.Unchanged: " "}[c.Action]
		if c.Action == install.Unchanged && !in.show.verbose {
			continue
		}
		note := ""
		if c.Note != "" {
			note = s.Dim("  (" + c.Note + ")")
		}
		fmt.Fprintf(out, "  %s %s%s\n", sign, c.Object, note)
	}
	if len(p.ValueChanges) > 0 {
		fmt.Fprintf(out, "\n%s\n", s.Bold("Values of the release"))
		for _, v := range p.ValueChanges {
			fmt.Fprintf(out, "  %s: %s\n", v.Path, change(v))
		}
	}
	if len(p.Images) > 0 {
		fmt.Fprintf(out, "\n%s\n", s.Bold("Images"))
		for _, i := range p.Images {
			fmt.Fprintf(out, "  %s %s\n", i.Reference, s.Dim(i.Digest))
		}
	}
}

func change(v install.ValueChange) string {
	short := func(x any) string {
		text := strings.Join(strings.Fields(fmt.Sprint(x)), " ")
		if r := []rune(text); len(r) > 80 {
			text = string(r[:80]) + "…"
		}
		return text
	}
	switch {
	case v.Old == nil:
		return short(v.New)
	case v.New == nil:
		return short(v.Old) + " → removed"
	}
	return short(v.Old) + " → " + short(v.New)
}

func versions(t event.Target) string {
	switch {
	case t.FromVersion == "":
		return "new → " + t.ToVersion
	case t.FromVersion == t.ToVersion:
		return "version " + t.ToVersion
	}
	return "version " + t.FromVersion + " → " + t.ToVersion
}

// prove runs the connectivity test. Its failure is the command's, and keeps the release.
func (in *installer) prove(ctx context.Context, started time.Time) error {
	client, err := in.session.cluster.Clientset()
	if err != nil {
		return err
	}
	options := connectivity.Options{
		Host: in.platform.Host(), Header: http.Header{nopsapi.KeyHeader: {in.key.secret}}, CABundle: in.bundle, Proxy: in.f.Proxy, RegistryURL: registryURL(in.admit.mirrored), API: in.platform,
		Prober: in.f.Prober(client, in.cluster.kube.Namespace), ClusterARN: in.arn, Wait: in.connectivityWait,
		Target: in.answer.Plan.Target, Observe: in.op.Observe, Now: in.f.Now, Sleep: in.f.Sleep, Resolve: in.f.Resolve,
	}
	if in.answer.Result.Outcome != event.Unchanged {
		options.NotBefore = started
	}
	if n := in.config.HeartbeatIntervalSeconds; n > 0 {
		options.HeartbeatMaxAge = max(3*time.Minute, 3*time.Duration(n)*time.Second)
	}
	report, err := connectivity.Run(ctx, options)
	in.answer.Connectivity = &report
	if err != nil {
		return err
	}
	if report.Passed() {
		return nil
	}
	err = notProven(report)
	return &failure{class: "preflight", reason: "the stack is installed, but data does not flow yet", err: err, advice: first(hintOf(err), "nopsctl test-connectivity tells when it does")}
}

// registryURL is the address of the registry that the stack's images come from.
func registryURL(mirrors ref.Mirrors) string {
	registry := publicRegistry
	for _, m := range mirrors {
		if m.From == publicRegistry || strings.HasPrefix(m.From, publicRegistry+"/") {
			registry, _, _ = strings.Cut(m.To, "/")
		}
	}
	return "https://" + registry + "/v2/"
}

// receipt is the end of a good installation: what there is now, and what to do next.
func (in *installer) receipt(a installAnswer) {
	if in.show.quiet {
		return
	}
	out, s := in.f.IO.Out, in.f.styleOut()
	what := "is installed"
	if a.Result.Outcome == event.Unchanged {
		what = "is unchanged"
	}
	fmt.Fprintf(out, "\n%s\n", s.Bold(fmt.Sprintf("%s %s %s in namespace %s (revision %d)", a.Plan.Target.Release, a.Plan.Target.ToVersion, what, a.Plan.Target.Namespace, a.Result.Revision)))
	fmt.Fprintf(out, "  cluster      %s\n", in.arn)
	ready := 0
	for _, c := range a.Result.Components {
		if c.State.Settled() {
			ready++
		}
	}
	if n := len(a.Result.Components); n > 0 {
		fmt.Fprintf(out, "  workloads    %d of %d ready\n", ready, n)
	}
	switch {
	case a.Connectivity != nil:
		fmt.Fprintf(out, "  data flow    proven: %s\n", counts(a.Connectivity.Counts))
	default:
		fmt.Fprintf(out, "  data flow    not tested\n")
	}
	suffix := ""
	if in.cluster.kube.Namespace != defaultNamespace {
		suffix += " --namespace " + in.cluster.kube.Namespace
	}
	if in.cluster.release != defaultRelease {
		suffix += " --release " + in.cluster.release
	}
	fmt.Fprintf(out, "\nNext:\n  %-46s what runs, and why not if not\n  %-46s prove again that data flows\n  %-46s run it again to upgrade or change values\n",
		"nopsctl status"+suffix, "nopsctl test-connectivity"+suffix, "nopsctl install"+suffix)
}

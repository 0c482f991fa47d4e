package cli

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/internal/ui"
	"github.com/nopsctl/nopsctl/internal/ui/jsonl"
	"github.com/nopsctl/nopsctl/internal/ui/plain"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// clusterFlags are those of every command that looks at a cluster.
type clusterFlags struct {
	kube    kube.Options
	release string
	given   bool // --release was
}

func (c *clusterFlags) bind(cmd *cobra.Command) {
	c.kube.Namespace = defaultNamespace
	c.kube.BindFlags(cmd.Flags())
	cmd.Flags().StringVar(&c.release, "release", defaultRelease, "name of the Helm release")
}

// faceFlags choose how much is told.
type faceFlags struct{ quiet, verbose bool }

func (v *faceFlags) bind(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&v.quiet, "quiet", "q", false, "tell only what is wrong")
	cmd.Flags().BoolVarP(&v.verbose, "verbose", "v", false, "tell every check of preflight, not only those that did not pass")
}

// face makes the face of a command. In the format jsonl the events are the answer; otherwise they are progress, but for
// the checks of a connectivity test where those were asked for.
func (f *Factory) face(output string, v faceFlags, checksAreTheAnswer bool) ui.Face {
	if output == "jsonl" {
		return jsonl.New(f.IO.Out, f.Now)
	}
	o := plain.Options{Progress: f.IO.ErrOut, Style: f.styleErr(), Quiet: v.quiet, Verbose: v.verbose}
	if checksAreTheAnswer && output == "text" {
		o.Answers, o.AnswerStyle = f.IO.Out, f.styleOut()
	}
	return plain.New(o)
}

func (f *Factory) styleOut() plain.Style {
	return plain.Style{Color: f.IO.ColorOut(), Unicode: f.IO.Unicode()}
}

func (f *Factory) styleErr() plain.Style {
	return plain.Style{Color: f.IO.ColorErr(), Unicode: f.IO.Unicode()}
}

// session is a cluster and an engine on it.
type session struct {
	cluster Cluster
	facts   kube.Facts
	engine  Engine
}

func (f *Factory) open(c clusterFlags, observe event.Func) (*session, error) {
	chart, err := f.Chart()
	if err != nil {
		return nil, err
	}
	return f.openWith(c, chart, observe)
}

// openWith is open with another chart than the one inside nopsctl.
func (f *Factory) openWith(c clusterFlags, chart fs.FS, observe event.Func) (*session, error) {
	c.kube.UserAgent, c.kube.Env = f.Version().UserAgent(), f.Env
	if c.kube.Namespace == "" {
		return nil, usage("--namespace is empty")
	}
	s := &session{cluster: f.Cluster(c.kube)}
	var err error
	if s.facts, err = s.cluster.Facts(); err != nil {
		return nil, err
	}
	s.engine, err = f.Engine(install.Options{
		Getter: s.cluster, Namespace: c.kube.Namespace, Release: c.release, Chart: chart, Observe: observe, Now: f.Now, Context: s.facts.Context,
	})
	return s, err
}

// componentLabel names the part of the stack that an object belongs to.
const componentLabel = "app.kubernetes.io/component"

// reach is a session with clients for all that agents leave in a cluster. The namespace is the stack's.
type reach struct {
	*session
	f         *Factory
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	mapper    meta.RESTMapper
	namespace string
}

func (f *Factory) reach(ctx context.Context, s *session, namespace string) (*reach, error) {
	s.learn(ctx, f)
	k := &reach{session: s, f: f, namespace: namespace}
	var err error
	if k.client, err = s.cluster.Clientset(); err != nil {
		return nil, err
	}
	config, err := s.cluster.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	if k.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	k.mapper, err = s.cluster.ToRESTMapper()
	return k, err
}

// whoami is who acts, for what is recorded: as the API server knows them where it tells, else as the kubeconfig does.
func (k *reach) whoami(ctx context.Context) string {
	review, err := k.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err == nil && review.Status.UserInfo.Username != "" {
		return review.Status.UserInfo.Username
	}
	return first(k.facts.As, k.facts.User, "somebody with nopsctl")
}

// learn makes the stored credentials known to the redactor: an error, an event or a log line of the cluster may repeat
// one. Who may not read them sees none of them here either.
func (s *session) learn(ctx context.Context, f *Factory) map[string][]byte {
	stored, err := s.engine.Credentials(ctx)
	if err != nil {
		return nil
	}
	for _, v := range stored {
		f.IO.Redactor().Add(string(v))
	}
	return stored
}

// keyFlags say where the API key and the platform are.
type keyFlags struct {
	key      string
	file     string
	stdin    bool
	host     string
	caBundle string
}

func (k *keyFlags) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.file, "api-key-file", "", "file that holds the API key")
	cmd.Flags().BoolVar(&k.stdin, "api-key-stdin", false, "read the API key from stdin")
	cmd.Flags().StringVar(&k.key, "api-key", "", "API key; it stays in the shell's history, so prefer the other ways (also: $"+EnvAPIKey+")")
	cmd.Flags().StringVar(&k.host, "host", "", "URL of the nOps API (default: $"+EnvHost+", then "+nopsapi.DefaultHost+")")
	cmd.Flags().StringVar(&k.caBundle, "ca-bundle", "", "file of PEM certificates to trust besides the system's, here and in the cluster (default: $"+EnvCABundle+")")
}

// apiKey is a key and where it came from.
type apiKey struct {
	secret string
	source string // "--api-key-file key.txt"
}

// readKey takes the key from where it was given. With nothing given it is empty; whoever needs one then asks.
func (f *Factory) readKey(ctx context.Context, k keyFlags) (apiKey, error) {
	given := 0
	for _, is := range []bool{k.key != "", k.file != "", k.stdin} {
		if is {
			given++
		}
	}
	if given > 1 {
		return apiKey{}, usage("--api-key, --api-key-file and --api-key-stdin exclude each other")
	}
	var key apiKey
	switch {
	case k.key != "":
		key = apiKey{k.key, "--api-key"}
	case k.file != "":
		data, err := f.ReadFile(k.file)
		if err != nil {
			return apiKey{}, &failure{class: "usage", reason: "--api-key-file", err: err}
		}
		key = apiKey{string(data), "--api-key-file " + k.file}
	case k.stdin:
		data, err := f.IO.ReadAll(ctx, 4096)
		if err != nil {
			return apiKey{}, fmt.Errorf("--api-key-stdin: %w", err)
		}
		key = apiKey{string(data), "--api-key-stdin"}
	case f.Env(EnvAPIKey) != "":
		key = apiKey{f.Env(EnvAPIKey), EnvAPIKey}
	default:
		return apiKey{}, nil
	}
	key.secret = strings.TrimSpace(key.secret)
	f.IO.Redactor().Add(key.secret)
	return key, checkKey(key)
}

// checkKey refuses what cannot be a key before it is sent anywhere.
func checkKey(key apiKey) error {
	if err := nopsapi.ValidateKey(key.secret); err != nil {
		return &failure{class: "auth", reason: key.source, err: err, advice: "copy the key from nOps under Settings → API Key"}
	}
	return nil
}

// requireKey asks for the key when nothing gave one and somebody is there.
func (f *Factory) requireKey(ctx context.Context, k keyFlags) (apiKey, error) {
	key, err := f.readKey(ctx, k)
	if err != nil || key.secret != "" {
		return key, err
	}
	if !f.IO.CanPrompt() {
		return apiKey{}, &failure{class: "auth", reason: "no API key was given", advice: "give it with --api-key-file FILE, --api-key-stdin or " + EnvAPIKey + "; it is in nOps under Settings → API Key"}
	}
	secret, err := f.IO.AskSecret(ctx, "nOps API key (nOps → Settings → API Key; not shown): ")
	if err != nil {
		return apiKey{}, fmt.Errorf("read the API key: %w", err)
	}
	key = apiKey{secret, "the API key typed"}
	return key, checkKey(key)
}

// hostOf is the URL of the nOps API.
func (f *Factory) hostOf(k keyFlags) string {
	switch {
	case k.host != "":
		return k.host
	case f.Env(EnvHost) != "":
		return f.Env(EnvHost)
	}
	return nopsapi.DefaultHost
}

// bundleOf reads the certificates to trust; nil when none are named.
func (f *Factory) bundleOf(k keyFlags) ([]byte, error) {
	path, from := k.caBundle, "--ca-bundle"
	if path == "" {
		path, from = f.Env(EnvCABundle), EnvCABundle
	}
	if path == "" {
		return nil, nil
	}
	data, err := f.ReadFile(path)
	if err != nil {
		return nil, &failure{class: "usage", reason: from, err: err}
	}
	if !strings.Contains(string(data), "-----BEGIN CERTIFICATE-----") {
		return nil, usage("%s %s: no PEM certificate in it", from, path)
	}
	return data, nil
}

// platform is a client of the nOps API with a key.
func (f *Factory) platform(k keyFlags, key string) (*nopsclient.Client, error) {
	bundle, err := f.bundleOf(k)
	if err != nil {
		return nil, err
	}
	client, err := f.Platform(nopsclient.Options{Host: f.hostOf(k), Key: key, CABundle: bundle, UserAgent: f.Version().UserAgent(), Now: f.Now})
	if err != nil {
		return nil, &failure{class: "usage", err: err}
	}
	return client, nil
}

// confirm asks before a change. Without somebody to ask, required decides: what is safe to repeat goes on, what removes or
// stops something needs a yes on the command line.
func (f *Factory) confirm(ctx context.Context, yes, required bool, operation string) error {
	if yes {
		return nil
	}
	if !f.IO.CanPrompt() {
		if required {
			return usageHint("run it again with --yes if that is what you want", "%s needs a yes, and there is no terminal to ask on", operation)
		}
		return nil
	}
	for {
		answer, err := f.IO.Ask(ctx, "Proceed? [y/N] ")
		if err != nil {
			if ctx.Err() == nil { // end of input
				return &failure{class: "cancelled", reason: "not confirmed: nothing was changed"}
			}
			return &failure{class: "cancelled", reason: "not confirmed: nothing was changed", err: ctx.Err()}
		}
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "y", "yes":
			return nil
		case "", "n", "no":
			return &failure{class: "cancelled", reason: "not confirmed: nothing was changed"}
		}
	}
}

// announce is the line, or block, that names what is about to be touched.
func (f *Factory) announce(what string, facts kube.Facts, t event.Target) {
	s := f.styleErr()
	fmt.Fprintln(f.IO.ErrOut, s.Bold(what))
	row := func(label, value string) {
		if value != "" {
			fmt.Fprintf(f.IO.ErrOut, "  %-10s %s\n", label, value)
		}
	}
	server := facts.Server
	if server != "" {
		server = " " + s.Dim("("+server+")")
	}
	context := facts.Context
	if context == "" {
		context = "in-cluster"
	}
	row("context", context+server)
	row("cluster", t.ClusterARN)
	row("namespace", t.Namespace)
	row("release", t.Release)
	switch {
	case t.FromVersion == t.ToVersion:
		row("version", t.ToVersion)
	case t.ToVersion == "":
		row("version", t.FromVersion+" → removed")
	case t.FromVersion == "":
		row("version", "new → "+t.ToVersion)
	default:
		row("version", t.FromVersion+" → "+t.ToVersion)
	}
}

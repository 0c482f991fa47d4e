package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
	"github.com/nopsctl/nopsctl/pkg/verify"
	"github.com/nopsctl/nopsctl/pkg/verify/cosign"
	"github.com/nopsctl/nopsctl/pkg/verify/notary"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// trustFlags are those of every command that asks registries who signed what.
type trustFlags struct {
	policy    string
	mirrors   []string
	timeout   time.Duration
	fresh     bool
	caBundle  string // of keyFlags where a command has them
	withCA    bool
	flags     *pflag.FlagSet
	mirrored  ref.Mirrors
	bundle    []byte
	collected *policy.Policy
	record    *notary.Recorder // takes down what AWS answers; what is remembered is then asked anew
}

func (t *trustFlags) bind(cmd *cobra.Command) {
	fs := cmd.Flags()
	t.flags = fs
	fs.StringVar(&t.policy, "policy", "", "file that says who must have signed what (default: $"+EnvPolicy+", then nopsctl/policy.yaml in the user's configuration directory)")
	fs.DurationVar(&t.timeout, "verify-timeout", verify.DefaultTimeout, "how long one image may take to verify")
	fs.BoolVar(&t.fresh, "no-cache", false, "do not believe what was verified in the last minutes")
	t.bindMirrors(cmd)
}

func (t *trustFlags) bindMirrors(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&t.mirrors, "registry-mirror", nil, "take images of REGISTRY from MIRROR: REGISTRY=MIRROR; may be repeated")
}

// bindBundle is for commands without keyFlags.
func (t *trustFlags) bindBundle(cmd *cobra.Command) {
	t.withCA = true
	cmd.Flags().StringVar(&t.caBundle, "ca-bundle", "", "file of PEM certificates to trust besides the system's (default: $"+EnvCABundle+")")
}

// read reads what the flags name, so that a mistake is found before anything is asked or changed.
func (t *trustFlags) read(f *Factory, bundle []byte) error {
	if err := t.notEmpty("policy", t.policy); err != nil {
		return err
	}
	var err error
	if t.mirrored, err = parseMirrors(t.mirrors); err != nil {
		return err
	}
	t.bundle = bundle
	if t.withCA {
		if t.bundle, err = f.bundleOf(keyFlags{caBundle: t.caBundle}); err != nil {
			return err
		}
	}
	if t.timeout < 0 {
		return usage("--verify-timeout %s: expected a duration such as 30s", t.timeout)
	}
	t.collected, err = f.loadPolicy(t.policy)
	return err
}

// notEmpty refuses a flag that was given and says nothing: an unset variable in a script must not switch verification off.
func (t *trustFlags) notEmpty(flag, value string) error {
	if t.flags != nil && t.flags.Changed(flag) && value == "" {
		return usageHint("leave the flag out, or name the file", "--%s is empty", flag)
	}
	return nil
}

// parseMirrors reads REGISTRY=MIRROR pairs.
func parseMirrors(given []string) (ref.Mirrors, error) {
	all, err := ref.ParseMirrors(given)
	if err != nil {
		return nil, usageHint("for example --registry-mirror public.ecr.aws=registry.example.com/public-ecr", "--registry-mirror %s", err)
	}
	return all, nil
}

// loadPolicy reads the policy that the flag or the environment names, or the user's own where there is one. None is nil.
func (f *Factory) loadPolicy(flag string) (*policy.Policy, error) {
	path, from := flag, "--policy"
	if path == "" {
		path, from = f.Env(EnvPolicy), EnvPolicy
	}
	named := path != ""
	if !named {
		if path = f.userPolicy(); path == "" {
			return nil, nil
		}
		from = "policy"
	}
	data, err := f.ReadFile(path)
	if err != nil {
		if _, missing := os.Lstat(path); !named && errors.Is(err, fs.ErrNotExist) && missing != nil { // a link that leads nowhere is no "none"
			return nil, nil
		}
		return nil, &failure{class: "usage", reason: from, err: err}
	}
	dir := filepath.Dir(path)
	p, err := policy.Parse(data, policy.Options{Source: path, Now: f.Now, Read: func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return f.ReadFile(name)
	}})
	if err != nil {
		return nil, &failure{class: "usage", reason: from, err: err, advice: "docs/verification.md describes the format; nopsctl verify example-policy prints one"}
	}
	return p, nil
}

// userPolicy is where a user keeps a policy; empty where nobody says where a user keeps anything.
func (f *Factory) userPolicy() string { return f.userFile("XDG_CONFIG_HOME", ".config", "policy.yaml") }

func (f *Factory) userFile(variable, below, name string) string {
	dir := f.Env(variable)
	if dir == "" && f.Env("HOME") != "" {
		dir = filepath.Join(f.Env("HOME"), below)
	}
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "nopsctl", name)
}

// sourceOptions say how registries are asked.
type sourceOptions struct {
	CABundle  []byte
	UserAgent string
	Prefer    []string // fingerprints of certificates that are trusted
}

// newSource asks registries: anonymously where that is enough, otherwise as the user is logged in to them, through the
// proxy of the environment.
func newSource(o sourceOptions) (oci.Shelf, error) {
	via, err := nopsclient.Transport(o.CABundle)
	if err != nil {
		return nil, err
	}
	// All images of a release are mostly at one registry, and are asked for at once. A connection that finds no place to wait in is
	// closed, and the next request then opens another, which across a network takes longer than the request.
	via.MaxIdleConns, via.MaxIdleConnsPerHost = 4*verify.DefaultParallel, 2*verify.DefaultParallel
	return oci.New(oci.Options{Transport: via, UserAgent: o.UserAgent, Prefer: o.Prefer, Credential: dockerCredential}), nil
}

// dockerCredential is what the user's container tools are logged in with. It is asked only where anonymous readers are refused.
func dockerCredential(ctx context.Context, host string) (auth.Credential, error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("read the docker configuration: %w", err)
	}
	return credentials.Credential(store)(ctx, host)
}

// source is where artifacts come from.
func (f *Factory) source(t *trustFlags) (oci.Shelf, error) {
	o := sourceOptions{CABundle: t.bundle, UserAgent: f.Version().UserAgent()}
	if t.collected != nil {
		o.Prefer = t.collected.Trust.AWSSigner.Roots
		if len(o.Prefer) == 0 {
			o.Prefer = []string{policy.AWSSignerRoot}
		}
	}
	return f.Source(o)
}

// verifier makes one of what the flags say.
func (f *Factory) verifier(t *trustFlags, source oci.Source, observe event.Func) (*verify.Verifier, error) {
	o := verify.Options{Policy: t.collected, Source: source, Mirrors: t.mirrored, Timeout: t.timeout, Observe: observe, Now: f.Now}
	if t.collected != nil {
		var err error
		if o.Engines, err = f.engines(t); err != nil {
			return nil, err
		}
		if dir := f.userFile("XDG_CACHE_HOME", ".cache", "verified"); dir != "" && !t.fresh && t.record == nil {
			o.Cache = verify.FileCache{Dir: dir, Now: f.Now}
		}
	}
	v, err := verify.New(o)
	if err != nil {
		return nil, &failure{class: "usage", err: err}
	}
	return v, nil
}

func (f *Factory) engines(t *trustFlags) (map[policy.Method]verify.Engine, error) {
	via, err := nopsclient.Transport(t.bundle)
	if err != nil {
		return nil, err
	}
	n, err := notary.New(notary.Options{Trust: t.collected.Trust, HTTP: &http.Client{Transport: via, Timeout: t.timeout}, Credentials: f.awsCredentials(), Proxy: f.Proxy, Record: t.record, Now: f.Now})
	if err != nil {
		return nil, &failure{class: "usage", reason: t.collected.Source, err: err}
	}
	c, err := cosign.New(cosign.Options{Sigstore: t.collected.Trust.Sigstore, Now: f.Now})
	if err != nil {
		return nil, &failure{class: "usage", reason: t.collected.Source, err: err}
	}
	return map[policy.Method]verify.Engine{
		policy.MethodAWSSigner: n, policy.MethodNotation: n, policy.MethodCosignKey: c, policy.MethodCosignKeyless: c,
	}, nil
}

// awsCredentials are those of the environment. Nil leaves it to AWS's own chain of places to look: profiles, single sign-on,
// the role of the machine.
func (f *Factory) awsCredentials() aws.CredentialsProvider {
	id, secret := f.Env("AWS_ACCESS_KEY_ID"), f.Env("AWS_SECRET_ACCESS_KEY")
	if id == "" || secret == "" {
		return nil
	}
	token := f.Env("AWS_SESSION_TOKEN")
	f.IO.Redactor().Add(secret, token)
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: id, SecretAccessKey: secret, SessionToken: token, Source: "environment"}, nil
	})
}

// references parses what was given as images.
func references(given []string) ([]ref.Reference, error) {
	var all []ref.Reference
	for _, g := range given {
		r, err := ref.Parse(g)
		if err != nil {
			return nil, &failure{class: "usage", err: err, advice: hintOf(err)}
		}
		all = append(all, r)
	}
	return all, nil
}

// tellPolicy says what the policy allows and probably does not mean.
func (t *trustFlags) tellPolicy(op *operation) {
	if t.collected == nil {
		return
	}
	for _, w := range t.collected.Warnings {
		op.Observe(event.Warning{ID: warnPolicy, Message: t.collected.Source + ": " + w, Hint: "docs/verification.md has the format of policies"})
	}
}

// verifyAll is one pass, as a step.
func (f *Factory) verifyAll(ctx context.Context, v *verify.Verifier, op *operation, images []ref.Reference) (verify.Report, error) {
	start := f.Now()
	title := "Verifying " + count(len(images), "image")
	if v.Policy == nil {
		title = "Resolving " + count(len(images), "image")
	}
	op.Observe(event.StepStarted{Step: "verify", Title: title})
	report, err := v.Verify(ctx, images)
	finished := event.StepFinished{Step: "verify", Title: title, Outcome: event.OK, Message: verdicts(report), Duration: f.Now().Sub(start)}
	switch {
	case errors.Is(err, context.Canceled):
		finished.Outcome, finished.Message = event.Cancelled, ""
	case err != nil:
		finished.Outcome, finished.Message = event.Failed, err.Error()
	case len(report.Refused()) > 0:
		finished.Outcome = event.Failed
	}
	op.Observe(finished)
	return report, err
}

// hintOfFinding is what to do about the finding in an error of a source.
func hintOfFinding(err error) string {
	var known *oci.Error
	if errors.As(err, &known) {
		return known.Finding.Reason.Hint()
	}
	return ""
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

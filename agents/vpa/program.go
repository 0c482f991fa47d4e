package vpa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/admission"
	"github.com/nopsctl/nopsctl/agents/vpa/exposition"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/policy"
	"github.com/nopsctl/nopsctl/agents/vpa/recommender"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/agents/vpa/updater"
)

// Names in the chart.
const (
	component = "vpa"
	turnLimit = 10 * time.Minute // after which a loop that does not turn is not alive
)

// Environment variables of the parts besides the recommender's.
const (
	EnvWebhookAddress   = "NOPS_VPA_WEBHOOK_ADDRESS"
	EnvUpdaterEvery     = "NOPS_VPA_UPDATER_EVERY"
	EnvPolicyEvery      = "NOPS_VPA_POLICY_EVERY"
	EnvIgnoreNamespaces = recommender.EnvIgnoreNamespaces
)

// Program is the nOps VPA's.
func Program() agent.Program {
	return agent.Program{
		Name: "nops-vpa", About: "sizes containers by what they use.", Secrets: []string{recommender.EnvStorePassword},
		Commands: []agent.Command{
			{Name: "recommender", About: "recommend requests until stopped", Run: runRecommender},
			{Name: "updater", About: "give running pods what is recommended, in place where that can be", Run: runUpdater},
			{Name: "admission", About: "give new pods what is recommended", Run: runAdmission},
			{Name: "policy", About: "make autoscalers of RightsizingPolicies", Run: runPolicy},
			{Name: "revert", About: "NAMESPACE/KIND/NAME… or --all, --by WHO: give pods back what their templates request", Run: runRevert},
			{Name: "import", About: "NAMESPACE/NAME… or --all: copy the Kubernetes VPA's autoscalers to ours, in mode Off", Run: runImport},
		},
	}
}

// candidate is a name of this process that no other one ever has.
func candidate(c *agent.Call, part string) string {
	return fmt.Sprintf("%s-%08x", agent.Or(c.Getenv("HOSTNAME"), component+"-"+part), rand.Uint32()) //nolint:gosec // an id, not a secret
}

func runRecommender(ctx context.Context, c *agent.Call) error {
	var o recommender.Options
	if err := c.Parse(&o); err != nil {
		return err
	}
	log, err := c.Logger(o.ProcessOptions)
	if err != nil {
		return err
	}
	d, err := recommenderDeps(ctx, c, &o, log)
	if err != nil {
		return err
	}
	if d.Listener, err = o.Listen(ctx); err != nil {
		return err
	}
	r, err := recommender.New(o, d)
	if err != nil {
		_ = d.Listener.Close()
		return err
	}
	return r.Run(ctx)
}

// attempts of one call of the platform: when to try again is the loops' business.
const attempts = 1

func recommenderDeps(ctx context.Context, c *agent.Call, o *recommender.Options, log *slog.Logger) (recommender.Deps, error) {
	agent.Headroom(c.Getenv)
	d := recommender.Deps{Version: c.Version, Candidate: candidate(c, "recommender"), Log: log, Now: time.Now, Rand: rand.Float64}
	var err error
	if d.Kube, err = c.Kubernetes(); err != nil {
		return d, err
	}
	if d.CABundle, err = o.CABundle(); err != nil {
		return d, err
	}
	if o.HasPlatform() {
		platform, err := o.Client(c.UserAgent("nops-vpa"), d.CABundle, attempts)
		if err != nil {
			return d, err
		}
		d.Platform = platform
	}
	if o.StoreRegion != "" {
		account, err := config.LoadDefaultConfig(ctx, config.WithRegion(o.StoreRegion))
		if err != nil {
			return d, fmt.Errorf("--store-aws-region: find AWS credentials: %w", err)
		}
		d.AWS = account.Credentials
	}
	return d, nil
}

// PartOptions are those of the updater, the admission controller and the policy controller.
type PartOptions struct {
	agent.ProcessOptions

	ignored []string
	every   time.Duration
	webhook string
	// envEvery names the variable of every, with its default; empty: the part has none.
	envEvery, everyDefault string
	hasWebhook             bool
	errs                   []error
}

var _ agent.Flags = (*PartOptions)(nil)

// UpdaterOptions are the updater's, not yet bound.
func UpdaterOptions() *PartOptions {
	return &PartOptions{envEvery: EnvUpdaterEvery, everyDefault: "1m"}
}

// PolicyOptions are the policy controller's, not yet bound.
func PolicyOptions() *PartOptions {
	return &PartOptions{envEvery: EnvPolicyEvery, everyDefault: "30s"}
}

// AdmissionOptions are the admission controller's, not yet bound.
func AdmissionOptions() *PartOptions { return &PartOptions{hasWebhook: true} }

// Environment lists the variables that the flags take their defaults from.
func (o *PartOptions) Environment() []string {
	all := append(o.ProcessOptions.Environment(), EnvIgnoreNamespaces)
	if o.envEvery != "" {
		all = append(all, o.envEvery)
	}
	if o.hasWebhook {
		all = append(all, EnvWebhookAddress)
	}
	return all
}

// BindFlags implements agent.Flags.
func (o *PartOptions) BindFlags(fs *pflag.FlagSet, env agent.Getenv) {
	o.ProcessOptions.BindFlags(fs, env)
	var ignored []string
	for one := range strings.SplitSeq(env(EnvIgnoreNamespaces), ",") {
		if one = strings.TrimSpace(one); one != "" {
			ignored = append(ignored, one)
		}
	}
	fs.StringSliceVar(&o.ignored, "ignore-namespaces", ignored, "namespaces that are left alone ("+EnvIgnoreNamespaces+")")
	if o.envEvery != "" {
		d, err := time.ParseDuration(agent.Or(env(o.envEvery), o.everyDefault))
		if err != nil {
			o.errs = append(o.errs, fmt.Errorf("%s: %q is no duration such as %s", o.envEvery, env(o.envEvery), o.everyDefault))
		}
		fs.DurationVar(&o.every, "every", d, "how often to look ("+o.envEvery+")")
	}
	if o.hasWebhook {
		fs.StringVar(&o.webhook, "webhook-address", agent.Or(env(EnvWebhookAddress), ":8000"), "address of the webhook ("+EnvWebhookAddress+")")
	}
}

// Validate implements agent.Flags.
func (o *PartOptions) Validate() error {
	errs := append([]error{o.ProcessOptions.Validate()}, o.errs...)
	if o.envEvery != "" && (o.every < time.Second || o.every > time.Hour) {
		errs = append(errs, fmt.Errorf("--every (%s): %s is not between 1s and 1h", o.envEvery, o.every))
	}
	if o.hasWebhook {
		_, port, err := net.SplitHostPort(o.webhook)
		if n, wrong := strconv.Atoi(port); err != nil || wrong != nil || n < 0 || n > 65535 {
			errs = append(errs, fmt.Errorf("--webhook-address (%s): %q is no address such as :8000", EnvWebhookAddress, o.webhook))
		}
	}
	return errors.Join(errs...)
}

// part is what a part of the program that does not speak to the platform begins with.
type part struct {
	log     *slog.Logger
	who     agent.Identity
	health  *agent.Health
	metrics *agent.Metrics
	serve   agent.Task
}

func begin(ctx context.Context, c *agent.Call, o *PartOptions, name string, conditions ...string) (*part, error) {
	agent.Headroom(c.Getenv)
	log, err := c.Logger(o.ProcessOptions)
	if err != nil {
		return nil, err
	}
	listener, err := o.Listen(ctx)
	if err != nil {
		return nil, err
	}
	p := &part{
		log: log, who: agent.Identity{Component: component + "-" + name, Namespace: o.Namespace, Release: o.Release, Version: c.Version}, metrics: &agent.Metrics{},
		health: agent.NewHealth(time.Now, conditions...),
	}
	agent.RegisterProcess(p.metrics, p.who.Component, c.Version, time.Now())
	p.serve = agent.Serve(listener, exposition.Handler(p.health, p.metrics))
	log.LogAttrs(ctx, slog.LevelInfo, "nops-vpa starts", slog.String("part", name), slog.String("version", c.Version))
	return p, nil
}

func runUpdater(ctx context.Context, c *agent.Call) error {
	o := UpdaterOptions()
	if err := c.Parse(o); err != nil {
		return err
	}
	kube, err := c.Kubernetes()
	if err != nil {
		return err
	}
	p, err := begin(ctx, c, o, "updater")
	if err != nil {
		return err
	}
	loop := lazyLoop(p.health, "applying")
	u, err := updater.New(updater.Options{Every: o.every, Ignored: o.ignored}, updater.Deps{
		Kube: kube, Who: p.who, Candidate: candidate(c, "updater"), Turn: loop, Metrics: p.metrics, Log: p.log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	return agent.Run(ctx, p.serve, agent.Task{Name: "updater", Run: u.Run})
}

// lazyLoop is a loop that has to turn from the first time it did: one that waits to be elected turns nothing.
func lazyLoop(h *agent.Health, name string) func() {
	var loop *agent.Loop
	return func() {
		if loop == nil {
			loop = h.Loop(name, turnLimit)
		}
		loop.Turn()
	}
}

func runPolicy(ctx context.Context, c *agent.Call) error {
	o := PolicyOptions()
	if err := c.Parse(o); err != nil {
		return err
	}
	kube, err := c.Kubernetes()
	if err != nil {
		return err
	}
	p, err := begin(ctx, c, o, "policy")
	if err != nil {
		return err
	}
	others, err := foreign.New(agent.KubeConfig(kube, p.who.Name()+"/"+c.Version), foreign.Options{Log: p.log})
	if err != nil {
		return err
	}
	controller, err := policy.New(policy.Deps{
		Kube: kube, Who: p.who, Lease: p.who.Name(), Candidate: candidate(c, "policy"), Ignored: o.ignored, Every: o.every, Turn: lazyLoop(p.health, "making autoscalers"), Metrics: p.metrics, Log: p.log,
		Elsewhere: func(kind, namespace, name string, object metav1.Object) (is, known bool) {
			if others.Ready() != nil {
				return false, false
			}
			_, is = others.Elsewhere(foreign.Ref{Namespace: namespace, Kind: kind, Name: name}, object)
			return is, true
		},
	})
	if err != nil {
		return err
	}
	return agent.Run(ctx, p.serve, agent.Task{Name: "others", Run: others.Run}, agent.Task{Name: "policies", Run: controller.Run})
}

// conditionWebhook is that pods can be sized; readyPace how often that is looked at until it is.
const (
	conditionWebhook = "webhook"
	readyPace        = 100 * time.Millisecond
)

// whenReady meets the condition once nothing is said to be missing.
func whenReady(ctx context.Context, h *agent.Health, condition string, missing func() string) error {
	tick := time.NewTicker(readyPace)
	defer tick.Stop()
	for {
		why := missing()
		if why == "" {
			h.Met(condition)
			<-ctx.Done() // a task ends with the program
			return nil
		}
		h.Unmet(condition, why)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func runAdmission(ctx context.Context, c *agent.Call) error {
	o := AdmissionOptions()
	if err := c.Parse(o); err != nil {
		return err
	}
	kube, err := c.Kubernetes()
	if err != nil {
		return err
	}
	p, err := begin(ctx, c, o, "admission-controller", conditionWebhook)
	if err != nil {
		return err
	}
	exposition.Admission()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.webhook)
	if err != nil {
		return fmt.Errorf("--webhook-address (%s): %w", EnvWebhookAddress, err)
	}
	userAgent := p.who.Name() + "/" + c.Version
	others, err := foreign.New(agent.KubeConfig(kube, userAgent), foreign.Options{Log: p.log})
	if err != nil {
		return err
	}
	records, err := watchRecords(agent.KubeConfig(kube, userAgent))
	if err != nil {
		return err
	}
	controller, err := admission.New(admission.Deps{
		Kube: kube, UserAgent: userAgent, Name: candidate(c, "admission"), Labels: p.who.Labels(), Namespace: o.Namespace, Listener: listener, Log: p.log, Now: time.Now,
		Known: func(vpa *vpav1.VerticalPodAutoscaler) rules.Known {
			k := records.known(vpa)
			if t := vpa.Spec.TargetRef; t != nil {
				k.Yield = others.Scaled(foreign.Ref{Namespace: vpa.Namespace, Kind: t.Kind, Name: t.Name})
			}
			return k
		},
		Missing: func() string {
			if why := others.Ready(); why != nil {
				return "it is not known yet who else sizes workloads: " + why.Error()
			}
			if !records.informer.HasSynced() {
				return "the autoscalers are still being read"
			}
			return ""
		},
		Leave: func(_ context.Context, pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler, workload metav1.Object) string {
			return leave(others, o.ignored, workload, pod, vpa, records.known(vpa))
		},
	})
	if err != nil {
		return err
	}
	loop := p.health.Loop("looking after certificates", turnLimit)
	return agent.Run(ctx, p.serve, agent.Task{Name: "others", Run: others.Run}, agent.Task{Name: "autoscalers", Run: records.run},
		agent.Task{Name: "certificates", Run: func(ctx context.Context) error {
			return controller.Certificates(ctx, loop.Turn)
		}},
		agent.Task{Name: "readiness", Run: func(ctx context.Context) error {
			return whenReady(ctx, p.health, conditionWebhook, controller.Ready)
		}},
		agent.Task{Name: "webhook", Run: controller.Serve})
}

// ActOptions are those of the commands that act once.
type ActOptions struct {
	agent.ProcessOptions

	all     bool
	by      string
	timeout time.Duration
	output  string
	args    []string
}

var (
	_ agent.Flags     = (*ActOptions)(nil)
	_ agent.Arguments = (*ActOptions)(nil)
)

// BindFlags implements agent.Flags.
func (o *ActOptions) BindFlags(fs *pflag.FlagSet, env agent.Getenv) {
	o.ProcessOptions.BindFlags(fs, env)
	fs.BoolVar(&o.all, "all", false, "all of them")
	fs.StringVar(&o.by, "by", "", "who wants it")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long it may take")
	fs.StringVarP(&o.output, "output", "o", "text", "text or json")
}

// TakeArguments implements agent.Arguments.
func (o *ActOptions) TakeArguments(args []string) error { o.args = args; return nil }

// Validate implements agent.Flags.
func (o *ActOptions) Validate() error {
	errs := []error{o.ProcessOptions.Validate()}
	if o.output != "text" && o.output != "json" {
		errs = append(errs, fmt.Errorf("--output: %q is neither text nor json", o.output))
	}
	if o.all == (len(o.args) > 0) {
		errs = append(errs, errors.New("either names or --all"))
	}
	return errors.Join(errs...)
}

// answer prints what became of it.
func (o *ActOptions) answer(c *agent.Call, what any) error {
	if o.output != "json" {
		return nil
	}
	if err := json.NewEncoder(c.Out()).Encode(what); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// say prints lines for people, unless JSON is wanted.
func (o *ActOptions) say(c *agent.Call) func(string, ...any) {
	if o.output == "json" {
		return func(string, ...any) {}
	}
	out := c.Out()
	return func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
}

func runRevert(ctx context.Context, c *agent.Call) error {
	var o ActOptions
	if err := c.Parse(&o); err != nil {
		return err
	}
	kube, err := c.Kubernetes()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	elsewhere, stop, err := whoElse(ctx, agent.KubeConfig(kube, c.UserAgent("nops-vpa")), othersPatience, o.say(c))
	if err != nil {
		return err
	}
	defer stop()
	done, err := policy.Revert(ctx, policy.RevertDeps{Kube: kube, UserAgent: c.UserAgent("nops-vpa"), Say: o.say(c), Elsewhere: elsewhere}, policy.Request{Workloads: o.args, All: o.all, By: o.by})
	if err != nil {
		return err
	}
	return o.answer(c, done)
}

// othersPatience is how long revert waits to know who else sizes workloads, and othersPace how often it looks.
const (
	othersPatience = 30 * time.Second
	othersPace     = 50 * time.Millisecond
)

// whoElse finds out who else sizes workloads, until it is stopped. Where that cannot be known, as where an API of somebody's does not answer,
// their marks alone count: what a person wants given back does not wait for others for ever, and they size anew what is theirs.
func whoElse(ctx context.Context, kube *rest.Config, patience time.Duration, say func(string, ...any)) (who func(kind, namespace, name string, objects ...metav1.Object) (string, error), stop func(), err error) {
	finder, err := foreign.New(kube, foreign.Options{})
	if err != nil {
		return nil, nil, err
	}
	watching, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { _ = finder.Run(watching) }) // it ends with the context alone
	stop = func() { cancel(); group.Wait() }
	for limit := time.Now().Add(patience); finder.Ready() != nil && time.Now().Before(limit); {
		if err := agent.Sleep(ctx, othersPace); err != nil {
			stop()
			return nil, nil, fmt.Errorf("find out who else sizes workloads: %w", err)
		}
	}
	if why := finder.Ready(); why != nil {
		say("It is not known who else sizes workloads, so all pods are given back but those with a mark of another product: %s", strings.ReplaceAll(why.Error(), "\n", "; "))
		return func(_, _, _ string, objects ...metav1.Object) (string, error) {
			reason, _ := foreign.Marked(objects...)
			return reason, nil
		}, stop, nil
	}
	return func(kind, namespace, name string, objects ...metav1.Object) (string, error) {
		reason, _ := finder.Elsewhere(foreign.Ref{Namespace: namespace, Kind: kind, Name: name}, objects...)
		return reason, nil
	}, stop, nil
}

func runImport(ctx context.Context, c *agent.Call) error {
	var o ActOptions
	if err := c.Parse(&o); err != nil {
		return err
	}
	kube, err := c.Kubernetes()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	done, err := policy.Import(ctx, kube, c.UserAgent("nops-vpa"), o.args, o.all, o.say(c))
	if err != nil {
		return err
	}
	return o.answer(c, done)
}

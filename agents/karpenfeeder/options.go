package karpenfeeder

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Environment variables beyond those of the chassis.
const (
	EnvRegion   = "AWS_REGION"
	EnvCluster  = "NOPS_CLUSTER_NAME"
	EnvFamilies = "NOPS_FEEDER_FAMILIES"
	EnvTo       = "NOPS_FEEDER_TO"
)

// Where the documents go.
const (
	toConfigMap = "configmap:"
	toDir       = "dir:"
	// DefaultTo is the ConfigMap that the RBAC of this agent names.
	DefaultTo = toConfigMap + "nops-karpenops-facts"
)

// Bounds of options.
const (
	maxFamilies   = 60 // AWS limits the questions for scores; a day's are about that many times 24 h / ScoresEvery
	maxTargetVCPU = 20000
	leastEvery    = time.Minute
)

// Options of `run`.
type Options struct {
	Namespace   string
	LogLevel    string
	Region      string
	Cluster     string        // its name, as in the tag eks:eks-cluster-name of its nodes
	Families    []string      // of instances
	TargetVCPU  int           // of which placement scores are asked
	Share       float64       // of each commitment, 0 to 1
	To          string        // "configmap:NAME" or "dir:PATH"
	Every       time.Duration // 0: once
	ValidFor    time.Duration
	ScoresEvery time.Duration
	PricesEvery time.Duration
	Window      time.Duration // that use is looked at over
}

var _ agent.Flags = (*Options)(nil)

// Environment names the variables that BindFlags reads.
func (*Options) Environment() []string {
	return []string{agent.EnvNamespace, agent.EnvLogLevel, EnvRegion, EnvCluster, EnvFamilies, EnvTo}
}

// BindFlags adds the flags; their defaults come from the environment.
func (o *Options) BindFlags(fs *pflag.FlagSet, env agent.Getenv) {
	var families []string
	if list := env(EnvFamilies); list != "" {
		families = strings.Split(list, ",")
	}
	fs.StringVar(&o.Namespace, "namespace", env(agent.EnvNamespace), "namespace of the ConfigMap ("+agent.EnvNamespace+")")
	fs.StringVar(&o.LogLevel, "log-level", agent.Or(env(agent.EnvLogLevel), "info"), "debug, info, warn or error ("+agent.EnvLogLevel+")")
	fs.StringVar(&o.Region, "region", env(EnvRegion), "AWS region of the cluster ("+EnvRegion+")")
	fs.StringVar(&o.Cluster, "cluster", env(EnvCluster), "name of the cluster, to tell its own nodes from others ("+EnvCluster+")")
	fs.StringSliceVar(&o.Families, "families", families, "instance families, such as m7i,c7g,r6a ("+EnvFamilies+")")
	fs.IntVar(&o.TargetVCPU, "target-vcpu", 64, "vCPUs that placement scores are asked for")
	fs.Float64Var(&o.Share, "share", 0, "part of each commitment that this cluster may use, 0 to 1; all clusters' together at most 1")
	fs.StringVar(&o.To, "to", agent.Or(env(EnvTo), DefaultTo), "configmap:NAME or dir:PATH ("+EnvTo+")")
	fs.DurationVar(&o.Every, "every", 0, "repeat; 0: once")
	fs.DurationVar(&o.ValidFor, "valid-for", 45*time.Minute, "after which karpenops decides nothing by the documents any more")
	fs.DurationVar(&o.ScoresEvery, "scores-every", time.Hour, "how old placement scores may be; AWS limits the questions of a day")
	fs.DurationVar(&o.PricesEvery, "prices-every", 24*time.Hour, "how old on-demand prices may be")
	fs.DurationVar(&o.Window, "window", 7*24*time.Hour, "over which others' use of commitments is looked at")
}

var (
	regionForm = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-\d$`)
	familyForm = regexp.MustCompile(`^[a-z][a-z0-9-]{1,15}$`)
	nameForm   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
)

// Validate says everything that is wrong at once.
func (o *Options) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !regionForm.MatchString(o.Region) {
		bad("--region (%s): %q is no region such as us-east-1", EnvRegion, o.Region)
	}
	if len(o.Families) == 0 || len(o.Families) > maxFamilies {
		bad("--families (%s): %d of 1 to %d", EnvFamilies, len(o.Families), maxFamilies)
	}
	for i, f := range o.Families {
		switch {
		case !familyForm.MatchString(f):
			bad("--families (%s): %q is no family such as m7i", EnvFamilies, f)
		case slices.Index(o.Families, f) != i:
			bad("--families (%s): %s twice", EnvFamilies, f)
		}
	}
	if o.TargetVCPU < 1 || o.TargetVCPU > maxTargetVCPU {
		bad("--target-vcpu: %d of 1 to %d", o.TargetVCPU, maxTargetVCPU)
	}
	if !(o.Share >= 0 && o.Share <= 1) { // NaN too
		bad("--share: %v of 0 to 1", o.Share)
	}
	if o.Share > 0 && o.Cluster == "" {
		bad("--share needs --cluster (%s): without it this cluster's own nodes count as others'", EnvCluster)
	}
	if err := o.destination(); err != nil {
		errs = append(errs, err)
	}
	if o.Every != 0 && o.Every < leastEvery {
		bad("--every: %s of at least %s, or 0 for once", o.Every, leastEvery)
	}
	if o.ValidFor < 2*o.Every || o.ValidFor < leastEvery {
		bad("--valid-for: %s is less than two runs apart: karpenops would hold between them", o.ValidFor)
	}
	for name, d := range map[string]time.Duration{"--scores-every": o.ScoresEvery, "--prices-every": o.PricesEvery, "--window": o.Window} {
		if d < leastEvery {
			bad("%s: %s of at least %s", name, d, leastEvery)
		}
	}
	if _, err := agent.ParseLevel(o.LogLevel); err != nil {
		errs = append(errs, err)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// destination says what is wrong with where the documents shall go.
func (o *Options) destination() error {
	switch name, isMap := strings.CutPrefix(o.To, toConfigMap); {
	case isMap && !nameForm.MatchString(name):
		return fmt.Errorf("--to (%s): %q is no name of a ConfigMap", EnvTo, name)
	case isMap && o.Namespace == "":
		return fmt.Errorf("--namespace (%s) is empty", agent.EnvNamespace)
	case !isMap && (!strings.HasPrefix(o.To, toDir) || len(o.To) == len(toDir)):
		return fmt.Errorf("--to (%s): %q is neither configmap:NAME nor dir:PATH", EnvTo, o.To)
	}
	return nil
}

// lease is until when the cluster's share holds.
func (o *Options) lease(now time.Time) time.Time { return now.Add(o.ValidFor) }

package karpenops

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// Environment variables beyond those of the chassis.
const (
	EnvClusterID     = "NOPS_CLUSTER_ID"
	EnvMode          = "NOPS_KARPENOPS_MODE"
	EnvFacts         = "NOPS_KARPENOPS_FACTS"
	EnvPlanner       = "NOPS_KARPENOPS_PLANNER" // settings as key=value, separated by commas
	EnvOverlays      = "NOPS_KARPENOPS_NODE_OVERLAYS"
	EnvSpotToSpot    = "NOPS_KARPENOPS_SPOT_TO_SPOT"
	EnvTick          = "NOPS_KARPENOPS_TICK"
	EnvProve         = "NOPS_KARPENOPS_PROVE"
	EnvPoolEvery     = "NOPS_KARPENOPS_POOL_EVERY"
	EnvClassApproval = "NOPS_KARPENOPS_NODE_CLASS_APPROVAL"
)

// FactsPlatform are facts from the platform; FactsConfigMap, with a name, from a ConfigMap beside the agent.
const (
	FactsPlatform  = "platform"
	FactsConfigMap = "configmap:"
)

// Options of the commands.
type Options struct {
	agent.PlatformOptions
	agent.ProcessOptions
	// ClusterID is the platform's name of the cluster, passed on.
	ClusterID string
	// Mode is how far the agent goes.
	Mode string
	// Facts is where market and commitments come from.
	Facts string
	// Planner are settings of the planner that are not the default, as key=value.
	Planner []string
	// Overlays says whether Karpenter's gate NodeOverlay is on: auto, on, off.
	Overlays string
	// SpotToSpot says that Karpenter's gate SpotToSpotConsolidation is on.
	SpotToSpot bool
	// Tick is how often it is decided.
	Tick time.Duration
	// Prove is how long a write has to prove itself before the next one, and before it is no longer undone.
	Prove time.Duration
	// PoolEvery is the least time between two changes of one NodePool.
	PoolEvery time.Duration
	// ClassApproval says that the chart grants patches of node classes, which approve needs.
	ClassApproval bool

	config plan.Config
	errs   []error // of the environment
}

// ActOptions are those of the commands that act or answer once: status, explain, plan, pause, resume, revert, approve.
type ActOptions struct {
	Options
	Output  string // "text" or "json"
	By, Why string
	All     bool
	Timeout time.Duration
	// Args are what it is about: NodePools, or an ID.
	Args []string
}

var (
	_ agent.Flags = (*Options)(nil)
	_ agent.Flags = (*ActOptions)(nil)

	_ agent.Arguments = (*ActOptions)(nil)
)

// Environment names the variables that BindFlags reads.
func (o *Options) Environment() []string {
	return append(append(o.PlatformOptions.Environment(), o.ProcessOptions.Environment()...), EnvClusterID, EnvMode, EnvFacts, EnvPlanner, EnvOverlays, EnvSpotToSpot, EnvTick, EnvProve, EnvPoolEvery, EnvClassApproval)
}

// BindFlags adds the flags; their defaults come from the environment.
func (o *Options) BindFlags(fs *pflag.FlagSet, env agent.Getenv) {
	o.PlatformOptions.BindFlags(fs, env)
	o.ProcessOptions.BindFlags(fs, env)
	yes := func(name string) bool {
		v := agent.Or(env(name), "false")
		b, err := strconv.ParseBool(v)
		if err != nil {
			o.errs = append(o.errs, fmt.Errorf("%s: %q is neither true nor false", name, v))
		}
		return b
	}
	pace := func(name, otherwise string) time.Duration {
		d, err := time.ParseDuration(agent.Or(env(name), otherwise))
		if err != nil {
			o.errs = append(o.errs, fmt.Errorf("%s: %q is no duration such as %s", name, env(name), otherwise))
		}
		return d
	}
	var settings []string
	if s := env(EnvPlanner); s != "" {
		settings = strings.Split(s, ",")
	}
	fs.StringVar(&o.ClusterID, "cluster-id", env(EnvClusterID), "identifier of the cluster on the platform ("+EnvClusterID+")")
	fs.StringVar(&o.Mode, "mode", agent.Or(env(EnvMode), string(karpenstate.ModeSiblings)), "how far to go: observe, advise, siblings, overlays, in-place ("+EnvMode+")")
	fs.StringVar(&o.Facts, "facts", agent.Or(env(EnvFacts), FactsPlatform), "where market and commitments come from: platform, configmap:NAME ("+EnvFacts+")")
	fs.StringSliceVar(&o.Planner, "planner", settings, "settings of the planner, key=value ("+EnvPlanner+")")
	fs.StringVar(&o.Overlays, "node-overlays", agent.Or(env(EnvOverlays), "auto"), "whether Karpenter's feature gate NodeOverlay is on: auto, on, off ("+EnvOverlays+")")
	fs.BoolVar(&o.SpotToSpot, "spot-to-spot", yes(EnvSpotToSpot), "Karpenter's feature gate SpotToSpotConsolidation is on ("+EnvSpotToSpot+")")
	fs.DurationVar(&o.Tick, "tick", pace(EnvTick, "60s"), "how often to decide ("+EnvTick+")")
	fs.DurationVar(&o.Prove, "prove", pace(EnvProve, "5m"), "how long a write has to prove itself; until then it is undone when it does harm, and nothing else is written ("+EnvProve+")")
	fs.DurationVar(&o.PoolEvery, "pool-every", pace(EnvPoolEvery, "30m"), "least time between two changes of one NodePool ("+EnvPoolEvery+")")
	fs.BoolVar(&o.ClassApproval, "node-class-approval", yes(EnvClassApproval), "node classes may be patched when a person approves it ("+EnvClassApproval+")")
}

// Validate says everything that is wrong at once.
func (o *Options) Validate() error {
	return errors.Join(o.PlatformOptions.Validate(), o.ProcessOptions.Validate(), o.own())
}

func (o *Options) own() error {
	errs := slices.Clone(o.errs)
	if !slices.Contains(karpenstate.Modes(), karpenstate.Mode(o.Mode)) {
		errs = append(errs, fmt.Errorf("--mode (%s): %q is none of observe, advise, siblings, overlays, in-place", EnvMode, o.Mode))
	}
	if name, is := strings.CutPrefix(o.Facts, FactsConfigMap); o.Facts != FactsPlatform && (!is || name == "") {
		errs = append(errs, fmt.Errorf("--facts (%s): %q is neither platform nor configmap:NAME", EnvFacts, o.Facts))
	}
	if !slices.Contains([]string{"auto", "on", "off"}, o.Overlays) {
		errs = append(errs, fmt.Errorf("--node-overlays (%s): %q is none of auto, on, off", EnvOverlays, o.Overlays))
	}
	if o.Tick < 5*time.Second || o.Tick > time.Hour {
		errs = append(errs, fmt.Errorf("--tick (%s): %s is not between 5s and 1h", EnvTick, o.Tick))
	}
	if o.Prove < 10*time.Second || o.Prove > 2*time.Hour {
		errs = append(errs, fmt.Errorf("--prove (%s): %s is not between 10s and 2h", EnvProve, o.Prove))
	}
	if o.PoolEvery < 10*time.Second || o.PoolEvery > 24*time.Hour {
		errs = append(errs, fmt.Errorf("--pool-every (%s): %s is not between 10s and 24h", EnvPoolEvery, o.PoolEvery))
	}
	config, err := settings(o.Planner)
	if err != nil {
		errs = append(errs, err)
	}
	config.Mode = karpenstate.Mode(o.Mode)
	o.config = config
	return errors.Join(errs...)
}

// region of the cluster, from its ARN.
func (o *Options) region() string {
	if parts := strings.Split(o.ClusterARN, ":"); len(parts) > 3 {
		return parts[3]
	}
	return ""
}

// setting is one that the planner takes: its bounds keep a slip of the hand from being a policy.
type setting struct {
	about string
	set   func(c *plan.Config, v string) error
}

func integer(at func(*plan.Config) *int, low, high int) func(*plan.Config, string) error {
	return func(c *plan.Config, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < low || n > high {
			return fmt.Errorf("%q is no whole number from %d to %d", v, low, high)
		}
		*at(c) = n
		return nil
	}
}

func number(at func(*plan.Config) *float64, low, high float64) func(*plan.Config, string) error {
	return func(c *plan.Config, v string) error {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil || !(n >= low && n <= high) {
			return fmt.Errorf("%q is no number from %g to %g", v, low, high)
		}
		*at(c) = n
		return nil
	}
}

func duration(at func(*plan.Config) *time.Duration, low, high time.Duration) func(*plan.Config, string) error {
	return func(c *plan.Config, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < low || d > high {
			return fmt.Errorf("%q is no duration from %s to %s", v, low, high)
		}
		*at(c) = d
		return nil
	}
}

// plannerSettings are those of plan.Config but for the mode, by the names of its fields in JSON. A test holds the two equal.
func plannerSettings() map[string]setting {
	return map[string]setting{
		"lo":             {"placement score that counts against a family, or lower", integer(func(c *plan.Config) *int { return &c.Lo }, 1, 10)},
		"hi":             {"placement score that counts for it, or higher", integer(func(c *plan.Config) *int { return &c.Hi }, 1, 10)},
		"exclude":        {"samples in a row that exclude a family", integer(func(c *plan.Config) *int { return &c.Exclude }, 1, 1000)},
		"readmit":        {"samples in a row that readmit it", integer(func(c *plan.Config) *int { return &c.Readmit }, 1, 1000)},
		"dwell":          {"least time between two flips of one gate", duration(func(c *plan.Config) *time.Duration { return &c.Dwell }, time.Minute, 30*24*time.Hour)},
		"flipsPerDay":    {"flips of one pool in a day", integer(func(c *plan.Config) *int { return &c.FlipsPerDay }, 1, 100)},
		"sampleTTL":      {"age at which samples are dropped", duration(func(c *plan.Config) *time.Duration { return &c.SampleTTL }, time.Minute, 24*time.Hour)},
		"restartCost":    {"USD per vCPU that an interruption costs", number(func(c *plan.Config) *float64 { return &c.RestartCost }, 0, 100)},
		"minSaving":      {"share of the cost below which nothing is done", number(func(c *plan.Config) *float64 { return &c.MinSaving }, 0, 1)},
		"minTypes":       {"instance types that stay at least", integer(func(c *plan.Config) *int { return &c.MinTypes }, 1, 1000)},
		"minFamilies":    {"families that stay at least", integer(func(c *plan.Config) *int { return &c.MinFamilies }, 1, 100)},
		"minZones":       {"zones that stay at least", integer(func(c *plan.Config) *int { return &c.MinZones }, 1, 10)},
		"minFits":        {"types that stay at least for each kind of pod", integer(func(c *plan.Config) *int { return &c.MinFits }, 1, 100)},
		"headroom":       {"share of what a commitment leaves that is used", number(func(c *plan.Config) *float64 { return &c.Headroom }, 0.01, 1)},
		"rampUp":         {"vCPU that a limit rises at a tick", integer(func(c *plan.Config) *int { return &c.RampUp }, 1, 10000)},
		"rampDown":       {"vCPU that a limit falls at a tick", integer(func(c *plan.Config) *int { return &c.RampDown }, 1, 10000)},
		"deadBand":       {"share of a limit below which it is left alone", number(func(c *plan.Config) *float64 { return &c.DeadBand }, 0, 1)},
		"expiryTaper":    {"time before a commitment's end in which its pool is given back", duration(func(c *plan.Config) *time.Duration { return &c.ExpiryTaper }, time.Hour, 90*24*time.Hour)},
		"driftCap":       {"nodes that an edit in place may be predicted to replace", integer(func(c *plan.Config) *int { return &c.DriftCap }, 0, 1000)},
		"writesPerHour":  {"writes in an hour", integer(func(c *plan.Config) *int { return &c.WritesPerHour }, 1, 1000)},
		"siblingsPerRun": {"new NodePools at a tick", integer(func(c *plan.Config) *int { return &c.SiblingsPerRun }, 1, 10)},
	}
}

func settings(given []string) (plan.Config, error) {
	var (
		c     plan.Config
		errs  []error
		known = plannerSettings()
	)
	for _, s := range given {
		name, value, is := strings.Cut(strings.TrimSpace(s), "=")
		one, exists := known[name]
		switch {
		case strings.TrimSpace(s) == "":
		case !is:
			errs = append(errs, fmt.Errorf("--planner (%s): %q is not key=value", EnvPlanner, s))
		case !exists:
			errs = append(errs, fmt.Errorf("--planner (%s): there is no setting %q; there are %s", EnvPlanner, name, strings.Join(names(known), ", ")))
		default:
			if err := one.set(&c, value); err != nil {
				errs = append(errs, fmt.Errorf("--planner (%s): %s (%s): %w", EnvPlanner, name, one.about, err))
			}
		}
	}
	if c.Lo != 0 && c.Hi != 0 && c.Lo >= c.Hi {
		errs = append(errs, fmt.Errorf("--planner (%s): lo %d is not below hi %d", EnvPlanner, c.Lo, c.Hi))
	}
	return c, errors.Join(errs...)
}

func names(known map[string]setting) []string {
	var all []string
	for n := range known {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// BindFlags adds the flags; their defaults come from the environment.
func (o *ActOptions) BindFlags(fs *pflag.FlagSet, env agent.Getenv) {
	o.Options.BindFlags(fs, env)
	fs.StringVarP(&o.Output, "output", "o", "text", "text or json")
	fs.StringVar(&o.By, "by", "", "who does it; it is recorded")
	fs.StringVar(&o.Why, "why", "", "the reason; it is recorded")
	fs.BoolVar(&o.All, "all", false, "of all NodePools")
	fs.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "how long to wait for nodes that leave, and for everything else")
}

// TakeArguments implements agent.Arguments.
func (o *ActOptions) TakeArguments(args []string) error {
	o.Args = args
	return nil
}

// Validate says everything that is wrong at once. No key of the platform is needed: these commands work without it.
func (o *ActOptions) Validate() error {
	var errs []error
	if o.Output != "text" && o.Output != "json" {
		errs = append(errs, fmt.Errorf("--output: %q is neither text nor json", o.Output))
	}
	if o.Timeout < time.Second {
		errs = append(errs, fmt.Errorf("--timeout: %s is too short", o.Timeout))
	}
	return errors.Join(append(errs, o.ProcessOptions.Validate(), o.own())...)
}

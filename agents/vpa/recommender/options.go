package recommender

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/sources"
)

// Environment variables beyond those of the chassis.
const (
	EnvInterval         = "NOPS_VPA_INTERVAL"
	EnvSource           = "NOPS_VPA_SOURCE"
	EnvKubeletInsecure  = "NOPS_VPA_KUBELET_INSECURE"
	EnvStore            = "NOPS_VPA_STORE"             // address of Prometheus, VictoriaMetrics, or an AMP workspace
	EnvStoreLabels      = "NOPS_VPA_STORE_LABELS"      // name=value, separated by commas
	EnvStoreUsername    = "NOPS_VPA_STORE_USERNAME"    // with EnvStorePassword
	EnvStorePassword    = "NOPS_VPA_STORE_PASSWORD"    // from the environment alone
	EnvStoreTokenFile   = "NOPS_VPA_STORE_TOKEN_FILE"  // a bearer token, read for each request
	EnvStoreRegion      = "NOPS_VPA_STORE_AWS_REGION"  // signs requests (SigV4)
	EnvStoreInsecure    = "NOPS_VPA_STORE_INSECURE"    // any certificate will do
	EnvHistory          = "NOPS_VPA_HISTORY"           // how far back
	EnvIgnoreNamespaces = "NOPS_VPA_IGNORE_NAMESPACES" // separated by commas
	EnvWorkers          = "NOPS_VPA_WORKERS"
)

// Where usage comes from.
const (
	SourceMetricsServer = "metrics-server"
	SourceKubelet       = "kubelet"
	SourceStore         = "store"
)

// Options of the recommender.
type Options struct {
	agent.PlatformOptions
	agent.ProcessOptions
	// Interval is how often a round is made, 1m unless set.
	Interval time.Duration
	// Source of usage: metrics-server, kubelet, store. kubelet unless set, for it is always there.
	Source string
	// KubeletInsecure believes any certificate of kubelets.
	KubeletInsecure bool

	// Store is the address of a store, with the labels of this cluster's series in it; it is needed by the source of that name and for History.
	Store                        string
	StoreLabels                  map[string]string
	StoreUsername, StorePassword string
	StoreTokenFile               string
	StoreRegion                  string
	StoreInsecure                bool
	// History is how much of the past is read from the store at the start; 0 reads none.
	History time.Duration

	// IgnoreNamespaces have no autoscaler of ours.
	IgnoreNamespaces []string
	// Workers write at once, 10 unless set.
	Workers int
	// CheckpointEvery is the least time between two writes of one checkpoint; 0 is the writer's own.
	CheckpointEvery time.Duration

	errs []error // of the environment
}

var _ agent.Flags = (*Options)(nil)

// Environment names the variables that BindFlags reads.
func (o *Options) Environment() []string {
	return append(append(o.PlatformOptions.Environment(), o.ProcessOptions.Environment()...), EnvInterval, EnvSource, EnvKubeletInsecure, EnvStore, EnvStoreLabels, EnvStoreUsername, EnvStorePassword,
		EnvStoreTokenFile, EnvStoreRegion, EnvStoreInsecure, EnvHistory, EnvIgnoreNamespaces, EnvWorkers)
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
	span := func(name, otherwise string) time.Duration {
		d, err := time.ParseDuration(agent.Or(env(name), otherwise))
		if err != nil {
			o.errs = append(o.errs, fmt.Errorf("%s: %q is no duration such as %s", name, env(name), otherwise))
		}
		return d
	}
	labels := map[string]string{}
	for _, pair := range list(env(EnvStoreLabels)) {
		name, value, is := strings.Cut(pair, "=")
		if !is || name == "" {
			o.errs = append(o.errs, fmt.Errorf("%s: %q is not name=value", EnvStoreLabels, pair))
			continue
		}
		labels[name] = value
	}
	workers, err := strconv.Atoi(agent.Or(env(EnvWorkers), "10"))
	if err != nil {
		o.errs = append(o.errs, fmt.Errorf("%s: %q is no number", EnvWorkers, env(EnvWorkers)))
	}
	// A Secret that was made of a file ends with the line's end of that file. No password does.
	o.StorePassword = strings.TrimRight(env(EnvStorePassword), "\r\n")
	fs.DurationVar(&o.Interval, "interval", span(EnvInterval, "1m"), "how often to recommend ("+EnvInterval+")")
	fs.StringVar(&o.Source, "source", agent.Or(env(EnvSource), SourceKubelet), "where usage comes from: kubelet, metrics-server, store ("+EnvSource+")")
	fs.BoolVar(&o.KubeletInsecure, "kubelet-insecure", yes(EnvKubeletInsecure), "do not check the certificates of kubelets ("+EnvKubeletInsecure+")")
	fs.StringVar(&o.Store, "store", env(EnvStore), "address of Prometheus, VictoriaMetrics or an AMP workspace, as it comes before /api/v1 ("+EnvStore+")")
	fs.StringToStringVar(&o.StoreLabels, "store-labels", labels, "labels of this cluster's series there, name=value ("+EnvStoreLabels+")")
	fs.StringVar(&o.StoreUsername, "store-username", strings.TrimRight(env(EnvStoreUsername), "\r\n"), "basic authentication; the password comes from "+EnvStorePassword+" ("+EnvStoreUsername+")")
	fs.StringVar(&o.StoreTokenFile, "store-token-file", env(EnvStoreTokenFile), "file of a bearer token ("+EnvStoreTokenFile+")")
	fs.StringVar(&o.StoreRegion, "store-aws-region", env(EnvStoreRegion), "sign requests for AMP in this region ("+EnvStoreRegion+")")
	fs.BoolVar(&o.StoreInsecure, "store-insecure", yes(EnvStoreInsecure), "do not check the store's certificate ("+EnvStoreInsecure+")")
	fs.DurationVar(&o.History, "history", span(EnvHistory, "192h"), "how much of the past to read from the store; 0 reads none ("+EnvHistory+")")
	fs.StringSliceVar(&o.IgnoreNamespaces, "ignore-namespaces", list(env(EnvIgnoreNamespaces)), "namespaces whose autoscalers are left alone ("+EnvIgnoreNamespaces+")")
	fs.IntVar(&o.Workers, "workers", workers, "how many writes at once ("+EnvWorkers+")")
}

func list(s string) []string {
	var all []string
	for one := range strings.SplitSeq(s, ",") {
		if one = strings.TrimSpace(one); one != "" {
			all = append(all, one)
		}
	}
	return all
}

// HasPlatform says whether the platform is asked at all: without a key the local model is all there is.
func (o *Options) HasPlatform() bool { return o.APIKey != "" }

// Validate says everything that is wrong at once.
func (o *Options) Validate() error {
	errs := append(slices.Clone(o.errs), o.ProcessOptions.Validate())
	if o.HasPlatform() {
		errs = append(errs, o.PlatformOptions.Validate())
	}
	if o.Interval < time.Second || o.Interval > time.Hour {
		errs = append(errs, fmt.Errorf("--interval (%s): %s is not between 1s and 1h", EnvInterval, o.Interval))
	}
	if !slices.Contains([]string{SourceKubelet, SourceMetricsServer, SourceStore}, o.Source) {
		errs = append(errs, fmt.Errorf("--source (%s): %q is none of kubelet, metrics-server, store", EnvSource, o.Source))
	}
	if o.Source == SourceStore && o.Store == "" {
		errs = append(errs, fmt.Errorf("--store (%s) is empty, and --source says that usage comes from there", EnvStore))
	}
	if u, err := url.Parse(o.Store); o.Store != "" && (err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil) {
		errs = append(errs, fmt.Errorf("--store (%s): not an http or https address without credentials", EnvStore))
	}
	for _, name := range slices.Sorted(maps.Keys(o.StoreLabels)) {
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
			errs = append(errs, fmt.Errorf("--store-labels (%s): %q is no name of a label", EnvStoreLabels, name))
		}
	}
	ways := 0
	for _, is := range []bool{o.StoreUsername != "", o.StoreTokenFile != "", o.StoreRegion != ""} {
		if is {
			ways++
		}
	}
	if o.StorePassword != "" && o.StoreUsername == "" {
		errs = append(errs, fmt.Errorf("--store-username (%s) is empty, and there is a password: nothing would be sent", EnvStoreUsername))
	}
	if ways > 1 {
		errs = append(errs, errors.New("--store-username, --store-token-file and --store-aws-region exclude each other"))
	}
	if o.History != 0 && (o.History < sources.Chunk || o.History > 60*24*time.Hour) {
		errs = append(errs, fmt.Errorf("--history (%s): %s is neither 0 nor between 24h and 1440h; whole days are read, so less would read nothing", EnvHistory, o.History))
	}
	if o.Workers < 1 || o.Workers > 100 {
		errs = append(errs, fmt.Errorf("--workers (%s): %d is not between 1 and 100", EnvWorkers, o.Workers))
	}
	return errors.Join(errs...)
}

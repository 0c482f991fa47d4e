// Package kube is the one cluster identity of a command.
//
// Everything that talks to Kubernetes in one command, Helm and client-go alike, goes through one Cluster: same kubeconfig,
// same context, same user, same impersonation. What the kubeconfig says about the cluster (its EKS ARN above all) is read
// here too, without a network call; the network is only asked for the identity of the cluster itself, the UID of kube-system.
package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Options choose the cluster and who acts on it. The zero value is what kubectl would use without flags.
type Options struct {
	Kubeconfig string              // path; empty means KUBECONFIG, then ~/.kube/config
	Context    string              // empty means the current context
	As         string              // impersonated user
	AsGroups   []string            // impersonated groups
	Namespace  string              // empty means the context's
	UserAgent  string              // empty means client-go's
	Env        func(string) string // nil means os.Getenv; asked for KUBECONFIG and HOME
}

// BindFlags adds the flags every command has in common.
func (o *Options) BindFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "path of the kubeconfig file (default: $KUBECONFIG, then ~/.kube/config)")
	fs.StringVar(&o.Context, "context", o.Context, "kubeconfig context (default: the current one)")
	fs.StringVar(&o.As, "as", o.As, "user to impersonate")
	fs.StringArrayVar(&o.AsGroups, "as-group", o.AsGroups, "group to impersonate; may be repeated")
	fs.StringVarP(&o.Namespace, "namespace", "n", o.Namespace, "namespace of the release")
}

// Cluster gives every client of one command the same identity.
type Cluster struct {
	loader  clientcmd.ClientConfig
	context string // as asked for; empty means the current one
	agent   string

	mu        sync.Mutex
	config    *rest.Config
	discovery discovery.CachedDiscoveryInterface
}

var _ genericclioptions.RESTClientGetter = (*Cluster)(nil)

// New reads nothing yet: a missing or broken kubeconfig is reported by whoever needs it first.
func New(o Options) *Cluster {
	env := o.Env
	if env == nil {
		env = os.Getenv
	}
	rules := &clientcmd.ClientConfigLoadingRules{WarnIfAllMissing: false}
	switch {
	case o.Kubeconfig != "":
		rules.ExplicitPath = o.Kubeconfig
	case env("KUBECONFIG") != "":
		for _, p := range filepath.SplitList(env("KUBECONFIG")) {
			if p != "" {
				rules.Precedence = append(rules.Precedence, p)
			}
		}
	default:
		home := env("HOME")
		if home == "" {
			home = env("USERPROFILE")
		}
		rules.Precedence = []string{filepath.Join(home, ".kube", "config")}
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	overrides.Context.Namespace = o.Namespace
	overrides.AuthInfo.Impersonate = o.As
	overrides.AuthInfo.ImpersonateGroups = o.AsGroups
	return &Cluster{loader: clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides), context: o.Context, agent: o.UserAgent}
}

// FromConfig is a Cluster of a configuration that is already there. Tests use it.
func FromConfig(config clientcmdapi.Config, o Options) *Cluster {
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	overrides.Context.Namespace = o.Namespace
	overrides.AuthInfo.Impersonate = o.As
	overrides.AuthInfo.ImpersonateGroups = o.AsGroups
	return &Cluster{loader: clientcmd.NewDefaultClientConfig(config, overrides), context: o.Context, agent: o.UserAgent}
}

// ToRawKubeConfigLoader implements genericclioptions.RESTClientGetter.
func (c *Cluster) ToRawKubeConfigLoader() clientcmd.ClientConfig { return c.loader }

// ToRESTConfig implements genericclioptions.RESTClientGetter. Each caller gets a copy it may change.
func (c *Cluster) ToRESTConfig() (*rest.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config == nil {
		config, err := c.loader.ClientConfig()
		if err != nil {
			return nil, c.explain(err)
		}
		// client-go's defaults (5 a second) are made for controllers; one command asks for a few dozen objects and ends.
		config.QPS, config.Burst = 50, 100
		// Deprecation warnings are for whoever wrote the chart; client-go would print them between our lines.
		config.WarningHandler = rest.NoWarnings{}
		if c.agent != "" {
			config.UserAgent = c.agent
		}
		c.config = config
	}
	return rest.CopyConfig(c.config), nil
}

// ToDiscoveryClient implements genericclioptions.RESTClientGetter. The cache lives as long as the command: a cache on disk
// would answer for a cluster that changed since.
func (c *Cluster) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	config, err := c.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.discovery == nil {
		client, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("discovery client: %w", err)
		}
		c.discovery = memory.NewMemCacheClient(client)
	}
	return c.discovery, nil
}

// ToRESTMapper implements genericclioptions.RESTClientGetter.
func (c *Cluster) ToRESTMapper() (meta.RESTMapper, error) {
	client, err := c.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	return restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(client), client, nil), nil
}

// Clientset is a typed client with the identity of the command.
func (c *Cluster) Clientset() (kubernetes.Interface, error) {
	config, err := c.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// UID is the identity of the cluster itself: the UID of its namespace kube-system, which no other cluster has and which
// stays as long as the cluster.
func UID(ctx context.Context, client kubernetes.Interface) (string, error) {
	ns, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read namespace %s, whose UID identifies the cluster: %w", metav1.NamespaceSystem, err)
	}
	return string(ns.UID), nil
}

// Facts is what the kubeconfig says, without asking the network.
type Facts struct {
	Context   string `json:"context,omitempty"` // name; empty in a cluster without kubeconfig
	Cluster   string `json:"cluster,omitempty"` // name of the kubeconfig's cluster entry
	User      string `json:"user,omitempty"`    // name of the kubeconfig's user entry
	As        string `json:"as,omitempty"`      // impersonated user
	Server    string `json:"server"`
	Namespace string `json:"namespace"`

	ClusterARN string `json:"cluster_arn,omitempty"` // empty when the kubeconfig does not say
	// ARNHint says, when ClusterARN is empty, what is known of it and what is not.
	ARNHint string `json:"arn_hint,omitempty"`
}

// Facts reads the kubeconfig.
func (c *Cluster) Facts() (Facts, error) {
	config, err := c.ToRESTConfig()
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Server: config.Host, As: config.Impersonate.UserName}
	if f.Namespace, _, err = c.loader.Namespace(); err != nil {
		return Facts{}, fmt.Errorf("namespace of the kubeconfig context: %w", err)
	}
	raw, err := c.loader.RawConfig()
	if err != nil {
		return Facts{}, c.explain(err)
	}
	if f.Context = c.context; f.Context == "" {
		f.Context = raw.CurrentContext
	}
	kctx := raw.Contexts[f.Context]
	if kctx == nil { // inside a cluster
		f.Context = ""
		return f, nil
	}
	f.Cluster, f.User = kctx.Cluster, kctx.AuthInfo
	f.ClusterARN, f.ARNHint = detectARN(f, raw.AuthInfos[kctx.AuthInfo])
	return f, nil
}

// NoClusterError says that the kubeconfig names no cluster.
type NoClusterError struct {
	Reason   string
	Contexts []string // what the kubeconfig offers
}

// Error implements error.
func (e *NoClusterError) Error() string { return e.Reason }

// Hint says what to do.
func (e *NoClusterError) Hint() string {
	if len(e.Contexts) > 0 {
		return "choose one of the kubeconfig's contexts with --context: " + strings.Join(e.Contexts, ", ")
	}
	return "point --kubeconfig or KUBECONFIG at your cluster; for EKS: aws eks update-kubeconfig --region REGION --name CLUSTER"
}

// ExitClass implements the interface of internal/cli: the command line does not say which cluster.
func (e *NoClusterError) ExitClass() string { return "usage" }

// explain turns clientcmd's errors into one that says what to do.
func (c *Cluster) explain(err error) error {
	e := &NoClusterError{Reason: "kubeconfig: " + oneLine(err.Error())}
	if clientcmd.IsEmptyConfig(err) || errors.Is(err, rest.ErrNotInCluster) {
		e.Reason = "no kubeconfig: nothing says which cluster to use"
	}
	if raw, rawErr := c.loader.RawConfig(); rawErr == nil {
		for name := range raw.Contexts {
			e.Contexts = append(e.Contexts, name)
		}
		sort.Strings(e.Contexts)
	}
	return e
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

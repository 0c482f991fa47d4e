package cli

import (
	"context"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"time"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/internal/iostreams"
	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/internal/version"
	"github.com/nopsctl/nopsctl/pkg/connectivity"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
)

// Lifecycle is what commands that change a release need of the engine.
type Lifecycle interface {
	Plan(ctx context.Context, r install.Request) (*install.Plan, error)
	Toggle(ctx context.Context, t install.ToggleRequest) (*install.Plan, error)
	Apply(ctx context.Context, p *install.Plan) (*install.Result, error)
	Uninstall(ctx context.Context, r install.UninstallRequest) (*install.Result, error)
}

// Reader is what commands that look at a release need of the engine.
type Reader interface {
	Status(ctx context.Context) (*install.Status, error)
	Credentials(ctx context.Context) (map[string][]byte, error)
	Definitions(ctx context.Context) ([]install.Definition, error)
	LiveImages(ctx context.Context) (*install.LiveImages, error)
	ComponentObjects(ctx context.Context, r install.ComponentRequest) (*install.ComponentObjects, error)
}

// Engine is the engine.
type Engine interface {
	Lifecycle
	Reader
}

var _ Engine = (*install.Engine)(nil)

// Cluster is the one identity that all clients of a command share.
type Cluster interface {
	genericclioptions.RESTClientGetter
	Facts() (kube.Facts, error)
	Clientset() (kubernetes.Interface, error)
}

var _ Cluster = (*kube.Cluster)(nil)

// Factory makes what commands use, when they use it: nothing here does any work before it is called, so that version,
// completion and help are instant. Tests replace its fields.
type Factory struct {
	IO      *iostreams.Streams
	Env     func(string) string
	Now     func() time.Time
	Version func() version.Info
	// ReadFile reads files that flags name.
	ReadFile func(name string) ([]byte, error)
	// WriteFile writes files that flags name.
	WriteFile func(name string, data []byte, mode fs.FileMode) error
	// Sleep waits; nil means a timer. Resolve looks names up; nil means the system's resolver.
	Sleep   func(ctx context.Context, d time.Duration) error
	Resolve func(ctx context.Context, host string) ([]string, error)
	// Proxy chooses the proxy of requests from here.
	Proxy func(*http.Request) (*url.URL, error)

	Chart    func() (fs.FS, error)
	Cluster  func(kube.Options) Cluster
	Engine   func(install.Options) (Engine, error)
	Platform func(nopsclient.Options) (*nopsclient.Client, error)
	Source   func(sourceOptions) (oci.Shelf, error)
	Prober   func(client kubernetes.Interface, namespace string) connectivity.Prober
}

// NewFactory wires the real things.
func NewFactory(streams *iostreams.Streams, env func(string) string) *Factory {
	return &Factory{
		IO: streams, Env: env, Now: time.Now, Version: version.Get, ReadFile: readFile, WriteFile: os.WriteFile, Proxy: http.ProxyFromEnvironment,
		Chart:    embeddedchart.FS,
		Cluster:  func(o kube.Options) Cluster { return kube.New(o) },
		Engine:   func(o install.Options) (Engine, error) { return install.New(o) },
		Platform: nopsclient.New,
		Source:   newSource,
		Prober: func(client kubernetes.Interface, namespace string) connectivity.Prober {
			return &connectivity.JobProber{Client: client, Namespace: namespace}
		},
	}
}

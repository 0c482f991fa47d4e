package agent

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// KubeConfig is how an agent speaks to the API server, whichever client it makes of it.
func KubeConfig(config *rest.Config, userAgent string) *rest.Config {
	c := rest.CopyConfig(config)
	c.UserAgent = userAgent
	if c.Proxy == nil {
		// The environment's proxy is for the way out of the cluster; the API server is inside.
		c.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	c.DisableCompression = true // saves a decompressor of tens of KiB a stream, on a network that is near
	return c
}

// Group is what an agent knows of an API group: its version, and the kinds and lists it reads and writes.
type Group struct {
	Version schema.GroupVersion
	Kinds   []runtime.Object
}

// Clients are REST clients, one for each API group. The generated clientset would bring every type of every group into the
// binary and a good part of them into memory.
type Clients map[schema.GroupVersion]rest.Interface

// NewClients makes clients of the groups. They share one HTTP client, hence one connection.
func NewClients(config *rest.Config, userAgent string, groups ...Group) (Clients, error) {
	scheme := runtime.NewScheme()
	for _, g := range groups {
		scheme.AddKnownTypes(g.Version, g.Kinds...)
		metav1.AddToGroupVersion(scheme, g.Version)
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	c := KubeConfig(config, userAgent)
	httpClient, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client of the Kubernetes API: %w", err)
	}
	clients := Clients{}
	for _, g := range groups {
		own := rest.CopyConfig(c)
		own.GroupVersion, own.NegotiatedSerializer = &g.Version, codecs
		own.ContentType, own.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
		own.APIPath = "/apis"
		if g.Version.Group == "" {
			own.APIPath = "/api"
		}
		if clients[g.Version], err = rest.RESTClientForConfigAndClient(own, httpClient); err != nil {
			return nil, fmt.Errorf("making a client of %s: %w", g.Version, err)
		}
	}
	return clients, nil
}

// Raw is the body of an answer of the API server. Result.Raw alone calls whatever the API server refuses "unknown"; Result.Error reads in the body why.
func Raw(result rest.Result) ([]byte, error) {
	if err := result.Error(); err != nil {
		return nil, err //nolint:wrapcheck // the caller says what was asked for
	}
	return result.Raw() //nolint:wrapcheck // likewise
}

// StatusOf is the HTTP status of an answer of the API server, 0 when there is none. (apimachinery's errors package knows as
// much, and more than is needed here.)
func StatusOf(err error) int32 {
	var status interface{ Status() metav1.Status }
	if errors.As(err, &status) {
		return status.Status().Code
	}
	return 0
}

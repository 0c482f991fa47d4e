package karpenter

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// api speaks to the lab's API server. Where an object at a time is changed, starting kubectl for each takes longer than all
// the rest.
type api struct {
	client *http.Client
	server string
}

func (l Lab) api() (api, error) {
	pki := func(name string) string { return l.Cluster.Layout.Path("pki", name) }
	cert, err := tls.LoadX509KeyPair(pki("admin.crt"), pki("admin.key"))
	if err != nil {
		return api{}, fmt.Errorf("speak to the API server: %w", err)
	}
	ca, err := os.ReadFile(pki("ca.crt"))
	if err != nil {
		return api{}, fmt.Errorf("speak to the API server: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return api{&http.Client{
		Timeout:   20 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}, fmt.Sprintf("https://127.0.0.1:%d", l.Cluster.APIPort)}, nil
}

var errNotFound = errors.New("not found")

func (a api) do(ctx context.Context, method, path string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, a.server+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	res, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, err)
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", method, path, errNotFound)
	case res.StatusCode >= http.StatusBadRequest:
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

type object struct {
	Metadata struct {
		Name, Namespace string
		Finalizers      []string
	}
}

// list is empty for a kind that is not served.
func (a api) list(ctx context.Context, path string) ([]object, error) {
	var all struct{ Items []object }
	if err := a.do(ctx, http.MethodGet, path, nil, &all); err != nil && !errors.Is(err, errNotFound) {
		return nil, err
	}
	return all.Items, nil
}

// remove deletes every object that a list names, and takes off the finalizers of those that wait for a controller which has
// ended.
func (a api) remove(ctx context.Context, path, query string) ([]object, error) {
	all, err := a.list(ctx, path+query)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		one := path + "/" + o.Metadata.Name
		if err := a.do(ctx, http.MethodDelete, one, nil, nil); err != nil && !errors.Is(err, errNotFound) {
			return nil, err
		}
		if len(o.Metadata.Finalizers) == 0 {
			continue
		}
		if err := a.do(ctx, http.MethodPatch, one, []byte(`{"metadata":{"finalizers":null}}`), nil); err != nil && !errors.Is(err, errNotFound) {
			return nil, err
		}
	}
	return all, nil
}

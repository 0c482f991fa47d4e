package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/internal/sigv4"
	"github.com/nopsctl/nopsctl/lab/ca"
	"github.com/nopsctl/nopsctl/lab/images"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

// imageCount is how many images are verified: those of the chart's list but Datadog's agent.
const imageCount = 13

const (
	methodAWS    = string(policy.MethodAWSSigner)
	methodCosign = string(policy.MethodCosignKey)

	published = "public.ecr.aws" // where policies and references say that the images are
	region    = "us-east-1"
	account   = "arn:aws:signer:" + region + ":123456789012:/"
	profile   = account + "signing-profiles/nops_images"
)

// An image is one in the registry.
type image struct {
	name, tag, digest string // repository and tag, as published
	descriptor        ocispec.Descriptor
}

func (i image) published() string { return published + "/" + i.name + ":" + i.tag }

// A world is what programs verify against: a registry and AWS Signer's revocation API, both a round trip away.
type world struct {
	images            []image
	tampered, revoked image

	trace       *tracer
	opened      atomic.Int64 // connections
	escaped     atomic.Int64 // attempts to reach anything else
	host        string       // of the registry
	policies    map[string]string
	cosignKey   string
	trustedRoot string
	env         []string
	closers     []func()
}

func (w *world) at(i image) string     { return w.host + "/" + i.name + ":" + i.tag }
func (w *world) mirror() string        { return published + "=" + w.host }
func (w *world) environment() []string { return w.env }

func (w *world) close() {
	for _, c := range slices.Backward(w.closers) {
		c()
	}
}

// A signer has the keys of the publisher.
type signer struct {
	authority *signing.Authority
	cosign    signing.CosignKey
	api       *signing.Revocations
	host      string // of the registry, without the round trips
	jobs      int
}

func newWorld(ctx context.Context, dir string) (w *world, err error) {
	w = &world{trace: &tracer{roundTrip: roundTrip}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	shelf := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	s := &signer{}
	if s.authority, err = signing.NewAuthority(signing.AuthorityOptions{Region: region}); err != nil {
		return nil, fmt.Errorf("signing authority: %w", err)
	}
	if s.cosign, err = signing.NewCosignKey(); err != nil {
		return nil, fmt.Errorf("cosign key: %w", err)
	}
	key := sigv4.Key{AccessKeyID: "AKIABENCHMARK0000000", SecretAccessKey: "made-up-for-this-run"}
	s.api = &signing.Revocations{Region: region, Keys: func(id string) (sigv4.Key, error) {
		if id != key.AccessKeyID {
			return sigv4.Key{}, fmt.Errorf("no access key %s", id)
		}
		return key, nil
	}}
	near := w.serve(shelf)
	s.host = near.Listener.Addr().String()
	if err := w.fill(ctx, s); err != nil {
		return nil, err
	}
	w.host = w.serve(w.trace.around(shelf)).Listener.Addr().String()
	authority, err := ca.Open(filepath.Join(dir, "ca"), time.Now())
	if err != nil {
		return nil, err
	}
	api, err := w.serveTLS(w.trace.around(s.api), authority)
	if err != nil {
		return nil, err
	}
	trap, err := w.trap()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"ca.pem":            authority.PEM(),
		"cosign.pub":        s.cosign.PublicPEM(),
		"trusted-root.json": []byte(`{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`),
		"aws-signer.yaml": document("trust:\n  awsSigner:\n    roots:\n      - sha256: "+s.authority.RootFingerprint()+"\n    endpoint: "+api.URL,
			"awsSigner:\n        profiles: ["+profile+"]\n    revocation: require"),
		"cosign-key.yaml": document("", "cosignKey:\n        keyFile: cosign.pub\n        transparencyLog: false"),
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o644); err != nil {
			return nil, fmt.Errorf("write what programs read: %w", err)
		}
	}
	w.policies = map[string]string{methodAWS: filepath.Join(dir, "aws-signer.yaml"), methodCosign: filepath.Join(dir, "cosign-key.yaml")}
	w.cosignKey, w.trustedRoot = filepath.Join(dir, "cosign.pub"), filepath.Join(dir, "trusted-root.json")
	w.env = []string{"AWS_ACCESS_KEY_ID=" + key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + key.SecretAccessKey, "AWS_REGION=" + region,
		"SSL_CERT_FILE=" + filepath.Join(dir, "ca.pem"), "SSL_CERT_DIR=" + filepath.Join(dir, "ca"), "HTTP_PROXY=" + trap, "HTTPS_PROXY=" + trap}
	return w, nil
}

// document is a policy.
func document(trust, require string) []byte {
	return []byte(strings.Join([]string{"apiVersion: " + policy.APIVersion, "kind: " + policy.Kind, trust, "images:", "  - match: [" + published + "/nops/**]", "    require:", "      " + require, ""}, "\n"))
}

func (w *world) server(handler http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			w.opened.Add(1)
		}
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that end early are none of our business
	w.closers = append(w.closers, s.Close)
	return s
}

func (w *world) serve(handler http.Handler) *httptest.Server {
	s := w.server(handler)
	s.Start()
	return s
}

// serveTLS has a certificate for which the server, which on this machine takes its time from the client, need not work much.
func (w *world) serveTLS(handler http.Handler, authority *ca.Authority) (*httptest.Server, error) {
	certificate, err := authority.Certificate(time.Now(), "127.0.0.1")
	if err != nil {
		return nil, err
	}
	s := w.server(handler)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
	s.StartTLS()
	return s, nil
}

// trap is the proxy for everything that is not on this machine. It lets nobody through and counts.
func (w *world) trap() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	w.closers = append(w.closers, func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			w.escaped.Add(1)
			_ = c.Close()
		}
	}()
	return "http://" + listener.Addr().String(), nil
}

// fill pushes and signs the images, and two that must not pass.
func (w *world) fill(ctx context.Context, s *signer) error {
	listed, err := embeddedchart.Images()
	if err != nil {
		return fmt.Errorf("the chart's images: %w", err)
	}
	for _, component := range slices.Sorted(maps.Keys(listed)) {
		if component == "datadog" {
			continue
		}
		i := listed[component]
		pushed, err := s.push(ctx, strings.TrimPrefix(i.Repository, published+"/"), i.Tag)
		if err != nil {
			return err
		}
		if _, err := s.sign(ctx, pushed, pushed); err != nil {
			return err
		}
		w.images = append(w.images, pushed)
	}
	if len(w.images) != imageCount {
		return fmt.Errorf("the chart lists %d images beside Datadog's: measure as many", len(w.images))
	}
	if w.tampered, err = s.push(ctx, "nops/tampered", "1"); err != nil {
		return err
	}
	if _, err := s.sign(ctx, w.tampered, w.images[0]); err != nil {
		return err
	}
	if w.revoked, err = s.push(ctx, "nops/revoked", "1"); err != nil {
		return err
	}
	job, err := s.sign(ctx, w.revoked, w.revoked)
	s.api.Revoke(job, time.Time{})
	return err
}

func (s *signer) push(ctx context.Context, name, tag string) (image, error) {
	made, err := random.Image(1024, 1)
	if err != nil {
		return image{}, fmt.Errorf("make an image: %w", err)
	}
	digest, err := images.Registry{Host: s.host, Insecure: true}.Push(ctx, name, tag, made)
	if err != nil {
		return image{}, err
	}
	repository, err := s.repository(name)
	if err != nil {
		return image{}, err
	}
	descriptor, err := repository.Resolve(ctx, digest)
	if err != nil {
		return image{}, fmt.Errorf("resolve %s: %w", name, err)
	}
	return image{name, tag, digest, descriptor}, nil
}

func (s *signer) repository(name string) (*remote.Repository, error) {
	r, err := remote.NewRepository(s.host + "/" + name)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", name, err)
	}
	r.PlainHTTP = true
	if err := r.SetReferrersCapability(true); err != nil { // it has the API, and does not say so when something is pushed
		return nil, fmt.Errorf("repository %s: %w", name, err)
	}
	return r, nil
}

// sign hangs two signatures on an image: AWS Signer's, whose job it returns, and cosign's. They are about another image where
// somebody tampered.
func (s *signer) sign(ctx context.Context, on, about image) (job string, err error) {
	repository, err := s.repository(on.name)
	if err != nil {
		return "", err
	}
	s.jobs++
	job = fmt.Sprintf("%ssigning-jobs/00000000-0000-4000-8000-%012d", account, s.jobs)
	envelope, err := s.authority.Sign(ctx, about.descriptor, signing.NotaryOptions{Profile: profile + "/a1b2c3d4e5", Job: job, Expires: time.Now().AddDate(11, 3, 0)})
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", on.name, err)
	}
	if _, err := envelope.Push(ctx, repository, on.descriptor); err != nil {
		return "", fmt.Errorf("sign %s: %w", on.name, err)
	}
	layer, err := s.cosign.SignLayer(signing.SimpleSigning(published+"/"+about.name, about.descriptor.Digest))
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", on.name, err)
	}
	if _, err := signing.PushCosign(ctx, repository, on.descriptor.Digest, layer); err != nil {
		return "", fmt.Errorf("sign %s: %w", on.name, err)
	}
	return job, nil
}

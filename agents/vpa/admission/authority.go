package admission

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Authority keeps the webhook's certificates. Several replicas do so at once: whoever comes second to write the Secret reads what the
// first wrote. Every change is put into the webhook's configuration before anybody serves it, and is served after API servers had time to
// notice (settle): there is no moment at which one is served that they do not trust.
type Authority struct {
	Client    kubernetes.Interface
	Namespace string
	Lifetimes Lifetimes
	Now       func() time.Time
	Log       *slog.Logger
	// Hosts are the names under which API servers call the webhook; empty means those of its Service.
	Hosts []string
	// Every is how often the Secret is looked at, Settle how long API servers have to notice a new authority; 1m and 20s unless set.
	Every, Settle time.Duration

	serving atomic.Pointer[tls.Certificate]
	// trusted are the authorities of what is served, here or by another replica.
	trusted []*x509.Certificate
}

func (a *Authority) names() []string {
	if len(a.Hosts) > 0 {
		return a.Hosts
	}
	return []string{rightsizing.AdmissionService + "." + a.Namespace + ".svc", rightsizing.AdmissionService + "." + a.Namespace + ".svc.cluster.local"}
}

// Ready says whether there is a certificate to serve.
func (a *Authority) Ready() bool { return a.serving.Load() != nil }

// GetCertificate is for a tls.Config.
func (a *Authority) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := a.serving.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("there is no certificate yet")
}

// Run looks after the certificates until the context ends.
func (a *Authority) Run(ctx context.Context, beat func()) error {
	if a.Every <= 0 {
		a.Every = time.Minute
	}
	if a.Settle <= 0 {
		a.Settle = 20 * time.Second
	}
	wait := agent.Backoff{Base: 2 * time.Second, Max: a.Every, Rand: rand.Float64}
	for {
		err := a.Once(ctx)
		beat()
		next := a.Every
		if err != nil && ctx.Err() == nil {
			next = min(wait.Next(time.Second), a.Every)
			a.Log.LogAttrs(ctx, slog.LevelWarn, "certificates of the webhook could not be looked after; what is served stays", slog.Any("error", err), slog.Duration("again_in", next))
		} else {
			wait.Reset()
		}
		if err := agent.Sleep(ctx, next); err != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
	}
}

// Once reads the Secret, renews what is due, tells the webhook's configuration, and serves.
func (a *Authority) Once(ctx context.Context) error {
	m, err := a.current(ctx)
	if err != nil {
		return err
	}
	if err := a.trust(ctx, m, false); errors.Is(err, errNewer) {
		// Another replica renewed between the two reads; if the Secret knows nothing of it, it is nothing to keep.
		if m, err = a.current(ctx); err == nil {
			err = a.trust(ctx, m, true)
		}
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	a.trusted = m.bundle
	old := a.serving.Load()
	if old != nil {
		if bytes.Equal(old.Certificate[0], m.serving.Certificate[0]) {
			return nil
		}
		// Whoever told the configuration, this replica or another: API servers must have noticed.
		if err := agent.Sleep(ctx, a.Settle); err != nil {
			return err //nolint:wrapcheck // the context's
		}
	}
	a.serving.Store(&m.serving)
	a.Log.LogAttrs(ctx, slog.LevelInfo, "serving a certificate", slog.Time("until", m.serving.Leaf.NotAfter), slog.Time("authority_until", m.bundle[0].NotAfter))
	return nil
}

// current is what the Secret holds, renewed where it was due.
func (a *Authority) current(ctx context.Context) (*material, error) {
	secrets := a.Client.CoreV1().Secrets(a.Namespace)
	for range 5 {
		secret, err := secrets.Get(ctx, rightsizing.CertificateSecret, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read Secret %s/%s, which the chart makes: %w", a.Namespace, rightsizing.CertificateSecret, err)
		}
		m, err := read(secret.Data)
		if err != nil && len(secret.Data) > 0 {
			a.Log.LogAttrs(ctx, slog.LevelWarn, "the Secret of the webhook's certificates cannot be used, and is made anew", slog.Any("error", err))
		}
		next, changed, err := renew(m, a.names(), a.Lifetimes, a.Now())
		if err != nil {
			return nil, err
		}
		if !changed {
			return next, nil
		}
		if m == nil {
			// The Secret was lost: replicas go on serving what it held until API servers trust what it holds now.
			next.keep(a.trusted, a.Now())
		}
		if secret.Data, err = next.write(); err != nil {
			return nil, err
		}
		switch _, err = secrets.Update(ctx, secret, metav1.UpdateOptions{}); {
		case err == nil:
			return next, nil
		case !apierrors.IsConflict(err):
			return nil, fmt.Errorf("write Secret %s/%s: %w", a.Namespace, rightsizing.CertificateSecret, err)
		}
	}
	return nil, fmt.Errorf("Secret %s/%s changes faster than it can be written", a.Namespace, rightsizing.CertificateSecret)
}

// errNewer says that the webhook's configuration trusts an authority that is newer than the Secret's, as it was read.
var errNewer = errors.New("the configuration trusts a newer authority")

// trust puts the bundle into each webhook of the configuration. Unless told to, it leaves one that has a newer authority.
func (a *Authority) trust(ctx context.Context, m *material, anyway bool) error {
	bundle := m.pem()
	configurations := a.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	for range 5 {
		c, err := configurations.Get(ctx, rightsizing.WebhookName, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read MutatingWebhookConfiguration %s, which the chart makes: %w", rightsizing.WebhookName, err)
		}
		type operation struct {
			Op    string `json:"op"`
			Path  string `json:"path"`
			Value any    `json:"value"`
		}
		// Whoever changed the list of webhooks since it was read is noticed.
		patch := []operation{{"test", "/metadata/resourceVersion", c.ResourceVersion}}
		for i := range c.Webhooks {
			have := c.Webhooks[i].ClientConfig.CABundle
			if bytes.Equal(have, bundle) {
				continue
			}
			if !anyway && slices.ContainsFunc(certificates(have), func(c *x509.Certificate) bool {
				return c.Subject.CommonName == authorityName && c.NotBefore.After(m.bundle[0].NotBefore)
			}) {
				return errNewer
			}
			patch = append(patch, operation{"add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), bundle})
		}
		if len(patch) == 1 {
			return nil
		}
		body, err := json.Marshal(patch)
		if err != nil {
			return fmt.Errorf("encode a patch: %w", err)
		}
		switch _, err = configurations.Patch(ctx, rightsizing.WebhookName, types.JSONPatchType, body, metav1.PatchOptions{FieldManager: rightsizing.AdmissionService}); {
		case err == nil:
			return nil
		case !apierrors.IsConflict(err) && !apierrors.IsInvalid(err):
			return fmt.Errorf("put the authority into MutatingWebhookConfiguration %s: %w", rightsizing.WebhookName, err)
		}
	}
	return fmt.Errorf("MutatingWebhookConfiguration %s changes faster than it can be patched", rightsizing.WebhookName)
}

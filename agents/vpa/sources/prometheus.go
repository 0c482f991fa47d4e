package sources

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/metrics"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const (
	queryTimeout = time.Minute
	maxAnswer    = 512 << 20 // bytes of one answer: 250,000 containers, or a day of a large namespace
	maxRefusal   = 4 << 10
)

// StoreOptions say which store is asked, and how. The zero value of all but Address is useful.
type StoreOptions struct {
	// Address is what comes before /api/v1: http://prometheus.monitoring.svc:9090,
	// https://aps-workspaces.us-east-1.amazonaws.com/workspaces/ws-….
	Address string
	// Labels select this cluster's series in a store of several, such as cluster.
	Labels map[string]string
	// Window is what CPU's rate and memory's maximum are taken over; 2m unless set. Less than twice the interval of scrapes finds no rate.
	Window time.Duration

	// One of three ways to say who asks; none asks as nobody.
	Username, Password string
	BearerToken        func() (string, error) // asked each time, for tokens that are rotated
	SigV4              *SigV4

	CABundle []byte // certificates trusted besides the system's, in PEM
	Insecure bool   // believes any certificate
	Now      func() time.Time
	// Transport replaces the network, for tests.
	Transport http.RoundTripper
}

// SigV4 signs requests to Amazon Managed Service for Prometheus.
type SigV4 struct {
	Region      string
	Credentials aws.CredentialsProvider
}

// Store is a store that speaks Prometheus's HTTP API.
type Store struct {
	o      StoreOptions
	base   *url.URL
	client *http.Client
}

var _ metrics.PodMetricsLister = (*Store)(nil)

// NewStore makes a client of a store.
func NewStore(o StoreOptions) (*Store, error) {
	base, err := url.Parse(strings.TrimRight(o.Address, "/"))
	if err != nil || base.Hostname() == "" || base.Scheme != "http" && base.Scheme != "https" || base.RawQuery != "" || base.User != nil {
		return nil, errors.New("the store's address is not an http or https address without credentials and query")
	}
	ways := 0
	for _, is := range []bool{o.Username != "" || o.Password != "", o.BearerToken != nil, o.SigV4 != nil} {
		if is {
			ways++
		}
	}
	if ways > 1 {
		return nil, fmt.Errorf("asking %s: basic authentication, a bearer token and SigV4 exclude each other", base.Host)
	}
	if o.SigV4 != nil && (o.SigV4.Region == "" || o.SigV4.Credentials == nil) {
		return nil, fmt.Errorf("asking %s: SigV4 needs a region and credentials", base.Host)
	}
	if o.Window == 0 {
		o.Window = 2 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	transport := o.Transport
	if transport == nil {
		t, is := http.DefaultTransport.(*http.Transport)
		if !is {
			return nil, errors.New("the default transport is none of net/http")
		}
		t = t.Clone()
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.Insecure} //nolint:gosec // where it is asked for
		if len(o.CABundle) > 0 {
			roots, err := x509.SystemCertPool()
			if err != nil {
				roots = x509.NewCertPool()
			}
			if !roots.AppendCertsFromPEM(o.CABundle) {
				return nil, errors.New("the bundle of certificates holds none")
			}
			t.TLSClientConfig.RootCAs = roots
		}
		transport = t
	}
	return &Store{o: o, base: base, client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // credentials are for the store alone
	}}, nil
}

// selector is of the containers' series as this stack has them: sums of cgroups have no container, pauses none or POD.
func (s *Store) selector(namespace string) string {
	matchers := []string{`container!=""`, `container!="POD"`, `pod!=""`}
	return s.matchers(namespace, matchers...)
}

// matchers are those given, of this cluster, in a namespace unless that is empty.
func (s *Store) matchers(namespace string, more ...string) string {
	for _, name := range slices.Sorted(maps.Keys(s.o.Labels)) {
		more = append(more, fmt.Sprintf("%s=%s", name, quote(s.o.Labels[name])))
	}
	if namespace != "" {
		more = append(more, "namespace="+quote(namespace))
	}
	return "{" + strings.Join(more, ",") + "}"
}

// quote is a string of PromQL.
func quote(s string) string { return strconv.Quote(s) }

// List implements metrics.PodMetricsLister, with two questions for the whole cluster. Where two servers scrape the same kubelets, or a
// container's predecessor is still within the window, the larger holds: a sum would count it twice.
func (s *Store) List(ctx context.Context, namespace string, _ metav1.ListOptions) (*v1beta1.PodMetricsList, error) {
	window := seconds(s.o.Window)
	now := s.o.Now()
	var gathered pods
	for _, q := range []struct {
		query string
		name  corev1.ResourceName
	}{
		{fmt.Sprintf("max by (namespace,pod,container) (rate(%s%s[%s]))", cpuMetric, s.selector(namespace), window), corev1.ResourceCPU},
		{fmt.Sprintf("max by (namespace,pod,container) (max_over_time(%s%s[%s]))", memoryMetric, s.selector(namespace), window), corev1.ResourceMemory},
	} {
		all, err := s.ask(ctx, "query", url.Values{"query": {q.query}, "time": {moment(now)}}, false)
		if err != nil {
			return nil, fmt.Errorf("asking for the use of %s: %w", q.name, err)
		}
		for _, one := range all {
			at, value, is := one.Value.read()
			if !is || one.Metric.Container == "" {
				continue
			}
			gathered.add(one.Metric.Namespace, one.Metric.Pod, one.Metric.Container, at, s.o.Window, corev1.ResourceList{q.name: quantity(q.name, value)})
		}
	}
	return &gathered.list, nil
}

func quantity(name corev1.ResourceName, value float64) resource.Quantity {
	if name == corev1.ResourceCPU {
		return *resource.NewScaledQuantity(int64(value*1e9), resource.Nano)
	}
	return *resource.NewQuantity(int64(value), resource.BinarySI)
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) + "s" }

func moment(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// series is one of an answer, of instant and of range queries.
type series struct {
	Metric seriesLabels `json:"metric"`
	Value  point        `json:"value"`
	Values []point      `json:"values"`
}

// seriesLabels are those that anything here asks for. Decoding all into maps would cost more than the rest of the answer.
type seriesLabels struct {
	Namespace  string `json:"namespace"`
	Pod        string `json:"pod"`
	Container  string `json:"container"`
	OwnerKind  string `json:"owner_kind"`
	OwnerName  string `json:"owner_name"`
	ReplicaSet string `json:"replicaset"`
	Job        string `json:"job_name"`
}

// point is a time and a value: [1435781451.781, "1"].
type point [2]json.RawMessage

// read reads a point; false of what is no usage: NaN, infinite, negative, or no point at all.
func (p point) read() (time.Time, float64, bool) {
	at, err := strconv.ParseFloat(string(p[0]), 64)
	if err != nil {
		return time.Time{}, 0, false
	}
	text := strings.Trim(string(p[1]), `"`)
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(value) || value < 0 || value > 1e18 {
		return time.Time{}, 0, false
	}
	return time.UnixMilli(int64(math.Round(at * 1000))), value, true
}

// StoreError is a refusal of a store. One that is not temporary will be given again.
type StoreError struct {
	Host    string
	Status  int // of HTTP; 0: there was no answer, or not all of it
	Message string
	Err     error
}

// Error implements error.
func (e *StoreError) Error() string {
	switch {
	case e.Status == 0:
		return fmt.Sprintf("the store at %s: %v", e.Host, e.Err)
	case e.Message == "":
		return fmt.Sprintf("the store at %s answers HTTP %d", e.Host, e.Status)
	}
	return fmt.Sprintf("the store at %s answers HTTP %d: %s", e.Host, e.Status, e.Message)
}

// Unwrap gives what lies below.
func (e *StoreError) Unwrap() error { return e.Err }

// Temporary says whether asking again may help.
func (e *StoreError) Temporary() bool {
	return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status/100 == 5
}

// ask asks the store once. An answer that the store says is a part of what it has, as VictoriaMetrics's cluster does while a node of it is
// down, is none where the whole is wanted: what is missing of the past may be the peaks, and nobody asks for it again.
func (s *Store) ask(ctx context.Context, what string, form url.Values, whole bool) ([]series, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	res, err := s.send(ctx, what, form.Encode())
	if err != nil {
		return nil, &StoreError{Host: s.base.Host, Err: err}
	}
	defer res.Body.Close()
	var answer struct {
		Status    string `json:"status"`
		Error     string `json:"error"`
		IsPartial bool   `json:"isPartial"`
		Data      struct {
			Result []series `json:"result"`
		} `json:"data"`
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
		refusal := &StoreError{Host: s.base.Host, Status: res.StatusCode}
		if json.Unmarshal(text, &answer) == nil {
			refusal.Message = clip(answer.Error)
		}
		return nil, refusal
	}
	limited := &io.LimitedReader{R: res.Body, N: maxAnswer + 1}
	err = json.NewDecoder(limited).Decode(&answer)
	switch {
	case limited.N <= 0:
		return nil, &StoreError{Host: s.base.Host, Status: res.StatusCode, Message: fmt.Sprintf("more than %d bytes", maxAnswer)}
	case err != nil:
		return nil, &StoreError{Host: s.base.Host, Err: fmt.Errorf("reading the answer: %w", err)}
	case answer.Status != "success":
		return nil, &StoreError{Host: s.base.Host, Status: res.StatusCode, Message: clip(answer.Error)}
	case answer.IsPartial && whole:
		return nil, &StoreError{Host: s.base.Host, Err: errors.New("the answer is only a part of what there is")}
	}
	return answer.Data.Result, nil
}

func clip(s string) string {
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// send posts a question; the form may be longer than addresses may be.
func (s *Store) send(ctx context.Context, what, form string) (*http.Response, error) {
	body := []byte(form)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base.JoinPath("api/v1", what).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	switch {
	case s.o.SigV4 != nil:
		if err := s.sign(ctx, req, body); err != nil {
			return nil, err
		}
	case s.o.BearerToken != nil:
		token, err := s.o.BearerToken()
		if err != nil {
			return nil, fmt.Errorf("reading the bearer token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	case s.o.Username != "":
		req.SetBasicAuth(s.o.Username, s.o.Password)
	}
	return s.client.Do(req)
}

// sign signs a request to AMP.
func (s *Store) sign(ctx context.Context, req *http.Request, body []byte) error {
	credentials, err := s.o.SigV4.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("finding AWS credentials: %w", err)
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, credentials, req, hex.EncodeToString(sum[:]), "aps", s.o.SigV4.Region, s.o.Now()); err != nil {
		return fmt.Errorf("signing the request: %w", err)
	}
	return nil
}

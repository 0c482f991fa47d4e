package notary

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/signer"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Question is what is asked about a signature: has anything it hangs on been revoked?
type Question struct {
	Region            string    `json:"region"`
	ProfileVersion    string    `json:"profileVersion"`
	Job               string    `json:"job"`
	SignedAt          time.Time `json:"signedAt"`
	CertificateHashes []string  `json:"certificateHashes"`
}

// key is the question as a word; two questions with the same word are the same.
func (q Question) key() string {
	return strings.Join(append([]string{q.Region, q.ProfileVersion, q.Job, q.SignedAt.UTC().Format(time.RFC3339Nano)}, q.CertificateHashes...), "\n")
}

// Answer is what is known.
type Answer struct {
	Revoked  []string  // what of it was revoked
	At       time.Time // when that was said
	Recorded bool      // by evidence, not now
}

// Checker answers. Its error says why it cannot, and is best an *UnansweredError.
type Checker interface {
	Check(ctx context.Context, q Question) (Answer, error)
}

// CheckerFunc is a function as a Checker.
type CheckerFunc func(ctx context.Context, q Question) (Answer, error)

// Check implements Checker.
func (f CheckerFunc) Check(ctx context.Context, q Question) (Answer, error) { return f(ctx, q) }

// UnansweredError says why it is not known whether something was revoked.
type UnansweredError struct {
	Reason  verdict.Reason // of the outcome could-not-check
	Message string
	Err     error
}

// Error implements error.
func (e *UnansweredError) Error() string { return e.Message }

// Unwrap implements errors.Unwrap.
func (e *UnansweredError) Unwrap() error { return e.Err }

func unansweredBy(err error) *UnansweredError {
	var u *UnansweredError
	if errors.As(err, &u) && u.Reason.Outcome() == verdict.Unknown {
		return u
	}
	return &UnansweredError{Reason: verdict.RevocationUnknown, Message: err.Error(), Err: err}
}

// RevokedError says what was revoked. It refuses in every mode in which somebody asks.
type RevokedError struct {
	Reason  verdict.Reason // of the outcome revoked
	Message string
}

// Error implements error.
func (e *RevokedError) Error() string { return e.Message }

// newChecker puts together what the trust says. Recorded answers come before AWS: whoever names a file of them has no way out, or
// wants none to be taken.
func newChecker(o Options, now func() time.Time) (Checker, error) {
	online, err := NewAWS(AWSOptions{Endpoint: o.Trust.AWSSigner.Endpoint, Credentials: o.Credentials, HTTP: o.HTTP, Now: now})
	if err != nil {
		return nil, err
	}
	keep := o.CacheFor
	if keep == 0 {
		keep = 5 * time.Minute
	}
	var checker Checker = &cached{next: online, keep: keep, now: now, answers: map[string]kept{}}
	if len(o.Trust.AWSSigner.Evidence) == 0 || o.Record != nil {
		return checker, nil // who takes answers down wants new ones
	}
	evidence, err := ParseEvidence(o.Trust.AWSSigner.Evidence)
	if err != nil {
		return nil, fmt.Errorf("evidence of revocation in %s: %w", o.Trust.AWSSigner.EvidenceFile, err)
	}
	oldest := o.Trust.AWSSigner.MaxEvidenceAge
	if oldest == 0 {
		oldest = policy.DefaultEvidenceAge
	}
	return evidence.checker(oldest, now, checker), nil
}

// AWSOptions say how AWS Signer is asked.
type AWSOptions struct {
	Endpoint    string // https://HOST[:PORT] instead of AWS's of the region
	Credentials aws.CredentialsProvider
	HTTP        *http.Client
	Now         func() time.Time
	Timeout     time.Duration // of a question; zero means ten seconds
}

// AWS asks AWS Signer (GetRevocationStatus).
type AWS struct {
	o      AWSOptions
	client aws.HTTPClient

	mu       sync.Mutex // also held while credentials are fetched, once for all
	provider aws.CredentialsProvider
	failed   map[string]failure // by region; "" of the credentials
}

type failure struct {
	until time.Time
	err   *UnansweredError
}

var _ Checker = (*AWS)(nil)

const (
	// again is when it is tried again after nobody answered: many images must not wait many times for the same silence.
	again           = 30 * time.Second
	credentialsTime = 5 * time.Second
	maxAnswer       = 1 << 20
)

// NewAWS makes one. Nothing is read or asked before the first question.
func NewAWS(o AWSOptions) (*AWS, error) {
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
			return nil, fmt.Errorf("endpoint of AWS Signer %q: expected https://HOST[:PORT]", o.Endpoint)
		}
		ip := net.ParseIP(u.Hostname())
		if u.Scheme != "https" && (u.Scheme != "http" || ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("endpoint of AWS Signer %q: without TLS anybody on the way could say that nothing was revoked; expected https://HOST[:PORT]", o.Endpoint)
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	a := &AWS{o: o, client: bounded{awshttp.NewBuildableClient().WithTimeout(o.Timeout)}, failed: map[string]failure{}}
	if o.HTTP != nil {
		a.client = bounded{o.HTTP}
	}
	return a, nil
}

// Check implements Checker.
func (a *AWS) Check(ctx context.Context, q Question) (Answer, error) {
	if !regions.MatchString(q.Region) {
		return Answer{}, &UnansweredError{Reason: verdict.RevocationUnknown, Message: fmt.Sprintf("%q is no region of AWS", q.Region)}
	}
	given := ctx // whose end says nothing of AWS
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	credentials, err := a.credentials(given, q.Region)
	if err != nil {
		return Answer{}, err
	}
	a.mu.Lock()
	f := a.failed[q.Region]
	a.mu.Unlock()
	if a.o.Now().Before(f.until) {
		return Answer{}, f.err
	}
	options := signer.Options{Region: q.Region, Credentials: credentials, HTTPClient: a.client, RetryMaxAttempts: 2}
	if a.o.Endpoint != "" {
		options.BaseEndpoint = aws.String(strings.TrimSuffix(a.o.Endpoint, "/"))
		options.APIOptions = append(options.APIOptions, asNamed)
	}
	at := a.o.Now().UTC().Truncate(time.Second)
	out, err := signer.New(options).GetRevocationStatus(ctx, &signer.GetRevocationStatusInput{
		CertificateHashes: q.CertificateHashes, JobArn: aws.String(q.Job), ProfileVersionArn: aws.String(q.ProfileVersion), PlatformId: aws.String("Notation-OCI-SHA384-ECDSA"), SignatureTimestamp: aws.Time(q.SignedAt),
	})
	if err != nil {
		return Answer{}, a.explain(given, ctx, q.Region, err)
	}
	return Answer{Revoked: out.RevokedEntities, At: at}, nil
}

// asNamed keeps AWS's library from putting "data-" before the host of an endpoint that somebody named.
func asNamed(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("EndpointAsNamed", func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
		return next.HandleInitialize(smithyhttp.DisableEndpointHostPrefix(ctx, true), in)
	}), middleware.Before)
}

// bounded reads no more than an answer may have.
type bounded struct{ aws.HTTPClient }

// Do implements aws.HTTPClient.
func (b bounded) Do(r *http.Request) (*http.Response, error) {
	response, err := b.HTTPClient.Do(r)
	if err == nil && response.Body != nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, maxAnswer), response.Body}
	}
	return response, err
}

// credentials are fetched before anything is asked: without any, the library would ask in nobody's name.
func (a *AWS) credentials(ctx context.Context, region string) (aws.CredentialsProvider, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.failed[""]; a.o.Now().Before(f.until) {
		return nil, f.err
	}
	given := ctx
	ctx, cancel := context.WithTimeout(ctx, credentialsTime)
	defer cancel()
	fail := func(err error) error {
		u := &UnansweredError{Reason: verdict.NoCredentials, Message: "asking AWS Signer about revocation takes AWS credentials, and none can be had: " + lastLine(err), Err: err}
		if given.Err() == nil {
			a.failed[""] = failure{a.o.Now().Add(again), u}
		}
		return u
	}
	if a.provider == nil {
		provider := a.o.Credentials
		if provider == nil {
			load := []func(*config.LoadOptions) error{config.WithRegion(region)}
			if a.o.HTTP != nil {
				load = append(load, config.WithHTTPClient(a.o.HTTP))
			}
			loaded, err := config.LoadDefaultConfig(ctx, load...)
			if err != nil {
				return nil, fail(err)
			}
			provider = loaded.Credentials
		}
		a.provider = aws.NewCredentialsCache(provider)
	}
	got, err := a.provider.Retrieve(ctx)
	if err == nil && !got.HasKeys() {
		err = errors.New("what was found is empty")
	}
	if err != nil {
		return nil, fail(err)
	}
	return a.provider, nil
}

// explain says why there is no answer, in AWS's words where there are any: they are what helps.
func (a *AWS) explain(given, ctx context.Context, region string, err error) *UnansweredError {
	u := &UnansweredError{Reason: verdict.RevocationUnknown, Err: err}
	var said smithy.APIError
	var unsent *smithyhttp.RequestSendError
	var response *smithyhttp.ResponseError
	silent := ctx.Err() != nil || errors.As(err, &unsent)
	switch {
	case !silent && errors.As(err, &said):
		u.Message = fmt.Sprintf("AWS Signer in %s does not say whether it was revoked: %s: %s", region, said.ErrorCode(), said.ErrorMessage())
		if strings.Contains(said.ErrorCode(), "AccessDenied") {
			u.Message += " (the credentials need signer:GetRevocationStatus)"
		}
		if response := (*smithyhttp.ResponseError)(nil); errors.As(err, &response) && (response.HTTPStatusCode() == http.StatusForbidden || response.HTTPStatusCode() == http.StatusUnauthorized) {
			u.Reason = verdict.NoCredentials
		}
		return u
	case !silent && errors.As(err, &response):
		u.Message = fmt.Sprintf("AWS Signer in %s gives an answer that cannot be read: %s", region, lastLine(response.Err))
		return u
	}
	u.Message = fmt.Sprintf("AWS Signer in %s does not answer: %s", region, lastLine(err))
	if ctx.Err() != nil {
		u.Message = fmt.Sprintf("AWS Signer in %s does not answer in time", region)
	}
	if given.Err() != nil {
		return u
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed[region] = failure{a.o.Now().Add(again), u}
	return u
}

// lastLine is the innermost reason on one line.
func lastLine(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return strings.Join(strings.Fields(err.Error()), " ")
		}
		err = inner
	}
}

// cached remembers answers, whatever they say. What could not be answered is asked again.
type cached struct {
	next Checker
	keep time.Duration
	now  func() time.Time

	mu      sync.Mutex
	answers map[string]kept
}

type kept struct {
	answer Answer
	until  time.Time
}

// Check implements Checker.
func (c *cached) Check(ctx context.Context, q Question) (Answer, error) {
	c.mu.Lock()
	k, ok := c.answers[q.key()]
	c.mu.Unlock()
	if ok && c.now().Before(k.until) {
		return k.answer, nil
	}
	answer, err := c.next.Check(ctx, q)
	if err == nil {
		c.mu.Lock()
		c.answers[q.key()] = kept{answer, c.now().Add(c.keep)}
		c.mu.Unlock()
	}
	return answer, err
}

// Evidence is what AWS Signer answered, written down: the file that Trust.AWSSigner.EvidenceFile names.
//
//	{
//	  "apiVersion": "nopsctl.io/v1",
//	  "kind": "RevocationEvidence",
//	  "answers": [
//	    {
//	      "region": "us-east-1",
//	      "profileVersion": "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops/AbCdEfGhIj",
//	      "job": "arn:aws:signer:us-east-1:123456789012:/signing-jobs/…",
//	      "signedAt": "2026-11-01T10:00:00Z",
//	      "certificateHashes": ["…"],
//	      "askedAt": "2026-11-20T10:00:00Z",
//	      "revoked": []
//	    }
//	  ]
//	}
//
// It is as trustworthy as whoever hands over the file, which is nobody less than who hands over the policy beside it. It says nothing
// of signatures that it does not name, and nothing any more when it is too old; what it says was revoked stays revoked.
type Evidence struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Answers    []Recorded `json:"answers"`
}

// EvidenceKind is what the document must say it is, beside policy.APIVersion.
const EvidenceKind = "RevocationEvidence"

// Recorded is one question with its answer.
type Recorded struct {
	Question

	AskedAt time.Time `json:"askedAt"`
	Revoked []string  `json:"revoked"`
}

// maxEvidence is more than ten thousand answers have.
const maxEvidence = 32 << 20

// ParseEvidence reads the file.
func ParseEvidence(raw []byte) (Evidence, error) {
	var e Evidence
	if len(raw) > maxEvidence {
		return e, fmt.Errorf("it has %d bytes, of at most %d", len(raw), maxEvidence)
	}
	if err := checkJSON(raw, 0); err != nil {
		return e, err
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return e, err
	}
	if e.APIVersion != policy.APIVersion || e.Kind != EvidenceKind {
		return e, fmt.Errorf("it says that it is %q %q, expected %q %q", e.APIVersion, e.Kind, policy.APIVersion, EvidenceKind)
	}
	for i, r := range e.Answers {
		if r.AskedAt.IsZero() || r.Job == "" || r.ProfileVersion == "" || r.SignedAt.IsZero() || len(r.CertificateHashes) == 0 || r.Revoked == nil {
			return e, fmt.Errorf("answer %d lacks one of profileVersion, job, signedAt, certificateHashes, askedAt, revoked", i+1)
		}
	}
	return e, nil
}

// checker answers from the evidence, and where that says nothing, hands on.
func (e Evidence) checker(oldest time.Duration, now func() time.Time, next Checker) Checker {
	byKey := map[string]Recorded{}
	for _, r := range e.Answers {
		// Of two, the one that says revoked counts, then the newer.
		if was, twice := byKey[r.key()]; twice && (len(was.Revoked) > len(r.Revoked) || len(was.Revoked) == len(r.Revoked) && was.AskedAt.After(r.AskedAt)) {
			continue
		}
		byKey[r.key()] = r
	}
	return CheckerFunc(func(ctx context.Context, q Question) (Answer, error) {
		r, ok := byKey[q.key()]
		age := now().Sub(r.AskedAt)
		const skew = 5 * time.Minute
		if ok && (len(r.Revoked) > 0 || age <= oldest && age >= -skew) {
			return Answer{Revoked: r.Revoked, At: r.AskedAt, Recorded: true}, nil
		}
		answer, err := next.Check(ctx, q)
		if err == nil {
			return answer, nil
		}
		u := *unansweredBy(err)
		switch {
		case !ok:
			u.Message = "the recorded evidence says nothing of it; " + u.Message
		case age < -skew:
			u.Message = fmt.Sprintf("the recorded evidence is of %s, which is yet to come: a clock is wrong; %s", stamp(r.AskedAt), u.Message)
		default:
			u.Message = fmt.Sprintf("the recorded evidence is of %s, older than %s; %s", stamp(r.AskedAt), oldest, u.Message)
		}
		return Answer{}, &u
	})
}

// Recorder takes down what AWS answers. The zero value is ready; it is safe for concurrent use.
type Recorder struct {
	mu      sync.Mutex
	answers map[string]Recorded
}

func (r *Recorder) over(next Checker) Checker {
	return CheckerFunc(func(ctx context.Context, q Question) (Answer, error) {
		answer, err := next.Check(ctx, q)
		if err == nil {
			revoked := append([]string{}, answer.Revoked...)
			slices.Sort(revoked)
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.answers == nil {
				r.answers = map[string]Recorded{}
			}
			r.answers[q.key()] = Recorded{Question: q, AskedAt: answer.At.UTC(), Revoked: revoked}
		}
		return answer, err
	})
}

// Evidence is what was taken down, in an order that depends on nothing else.
func (r *Recorder) Evidence() Evidence {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := Evidence{APIVersion: policy.APIVersion, Kind: EvidenceKind, Answers: []Recorded{}}
	for _, a := range r.answers {
		e.Answers = append(e.Answers, a)
	}
	slices.SortFunc(e.Answers, func(a, b Recorded) int { return strings.Compare(a.key(), b.key()) })
	return e
}

// JSON is the evidence as a file.
func (e Evidence) JSON() ([]byte, error) {
	raw, err := json.MarshalIndent(e, "", "  ")
	return append(raw, '\n'), err
}

package signing

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/internal/sigv4"
)

// RevocationPlatform is the platform that AWS Signer knows Notary Project signatures by.
const RevocationPlatform = "Notation-OCI-SHA384-ECDSA"

// RevocationFault is what goes wrong with questions that are otherwise in order. The zero value is none.
type RevocationFault struct {
	Status  int           // answered instead, with an error of AWS's form
	Delay   time.Duration // before any answer; cut short when the client leaves
	Garbage bool          // 200, and no JSON
	Times   int           // how many questions it strikes; 0: all
}

// RevocationRequest is a question that came in order.
type RevocationRequest struct {
	Key               string // ID of the access key that signed it
	Host              string
	ProfileVersion    string
	Job               string
	SignedAt          time.Time
	CertificateHashes []string // in the order of the query, which signing sorts
}

// RevocationCounts are what was asked.
type RevocationCounts struct {
	Answered uint64            `json:"answered"`
	Revoked  uint64            `json:"revoked"` // of the answered, those that named something
	Refused  map[string]uint64 `json:"refused"` // by AWS's name of the error
}

// Revocations is AWS Signer's GetRevocationStatus (GET /revocations) of one region: an http.Handler that takes questions signed
// with Signature Version 4 alone. Set its fields before serving; it is safe for concurrent use.
type Revocations struct {
	Region string                             // empty means us-east-1
	Keys   func(id string) (sigv4.Key, error) // of an access key ID
	Allow  func(keyID string) bool            // whether a key may ask; nil: any
	Now    func() time.Time                   // nil means time.Now

	mu       sync.Mutex
	revoked  map[string]time.Time // entity; the time from which signatures are revoked, zero for all
	fault    RevocationFault
	requests []RevocationRequest
	counts   RevocationCounts
}

var _ http.Handler = (*Revocations)(nil)

// Revoke revokes a job, a profile version, or a certificate by its hash (RevocationHashes), until Restore. Of a profile version,
// signatures that were made before from stay good; the zero time revokes all.
func (r *Revocations) Revoke(entity string, from time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.revoked == nil {
		r.revoked = map[string]time.Time{}
	}
	r.revoked[entity] = from
}

// Restore takes a revocation back, which AWS cannot; the lab can.
func (r *Revocations) Restore(entity string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.revoked, entity)
}

// Revoked are the entities that are revoked now, sorted.
func (r *Revocations) Revoked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := []string{}
	for entity := range r.revoked {
		all = append(all, entity)
	}
	slices.Sort(all)
	return all
}

// Inject replaces the fault; the zero RevocationFault ends it.
func (r *Revocations) Inject(f RevocationFault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// Requests are the last thousand questions that came in order, oldest first.
func (r *Revocations) Requests() []RevocationRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Counts are what was asked so far.
func (r *Revocations) Counts() RevocationCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts
	c.Refused = map[string]uint64{}
	for kind, n := range r.counts.Refused {
		c.Refused[kind] = n
	}
	return c
}

func invalid(message string) error {
	return &sigv4.DeniedError{Status: http.StatusBadRequest, Type: "ValidationException", Message: message}
}

// ServeHTTP implements http.Handler.
func (r *Revocations) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	entities, err := r.answer(req)
	w.Header().Set("Content-Type", "application/json")
	var d *sigv4.DeniedError
	switch {
	case errors.As(err, &d):
		r.mu.Lock()
		if r.counts.Refused == nil {
			r.counts.Refused = map[string]uint64{}
		}
		r.counts.Refused[d.Type]++
		r.mu.Unlock()
		w.Header().Set("X-Amzn-Errortype", d.Type)
		w.WriteHeader(d.Status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": d.Message, "code": d.Type}) //nolint:errchkjson // strings
	case err != nil: // garbage, or nobody is there any more
		_, _ = io.WriteString(w, `{"revokedEntities": [`)
	default:
		_ = json.NewEncoder(w).Encode(map[string][]string{"revokedEntities": entities}) //nolint:errchkjson // strings
	}
}

var (
	errGarbage  = errors.New("garbage")
	errGone     = errors.New("the client left")
	profileARN  = regexp.MustCompile(`^arn:aws[a-z-]*:signer:([a-z0-9-]+):(?:[0-9]{12}:/signing-profiles/[^/]+/[^/]+|(?:[0-9]{12})?:/aliased-signing-profiles/[^/]+(?:/[^/]+)?)$`)
	jobARN      = regexp.MustCompile(`^arn:aws[a-z-]*:signer:([a-z0-9-]+):[0-9]{12}:/signing-jobs/[^/]+$`)
	questionKey = []string{"signatureTimestamp", "platformId", "profileVersionArn", "jobArn", "certificateHashes"}
)

// answer returns what is revoked of what was asked about. The order is AWS's: who, may they, then what.
func (r *Revocations) answer(req *http.Request) ([]string, error) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return nil, invalid("the body ended early")
	}
	region := r.Region
	if region == "" {
		region = "us-east-1"
	}
	key, err := sigv4.Verifier{Region: region, Service: "signer", Now: r.Now, Lookup: r.Keys}.Verify(req, body)
	if err != nil {
		return nil, err
	}
	if r.Allow != nil && !r.Allow(key) {
		return nil, &sigv4.DeniedError{Status: http.StatusForbidden, Type: "AccessDeniedException", Message: "User is not authorized to perform: signer:GetRevocationStatus"}
	}
	if req.URL.Path != "/revocations" || req.Method != http.MethodGet {
		return nil, &sigv4.DeniedError{Status: http.StatusNotFound, Type: "UnknownOperationException", Message: "no such operation: " + req.Method + " " + req.URL.Path}
	}
	q, err := readQuestion(req, region)
	if err != nil {
		return nil, err
	}
	q.Key = key
	r.mu.Lock()
	r.requests = append(r.requests, q)
	r.requests = r.requests[max(0, len(r.requests)-1000):]
	fault := r.fault
	if fault.Times > 0 {
		if r.fault.Times--; r.fault.Times == 0 {
			r.fault = RevocationFault{}
		}
	}
	r.mu.Unlock()
	if fault.Delay > 0 {
		late := time.NewTimer(fault.Delay)
		defer late.Stop()
		select {
		case <-late.C:
		case <-req.Context().Done():
			return nil, errGone
		}
	}
	switch {
	case fault.Status == http.StatusTooManyRequests:
		return nil, &sigv4.DeniedError{Status: fault.Status, Type: "TooManyRequestsException", Message: "injected fault"}
	case fault.Status >= http.StatusInternalServerError:
		return nil, &sigv4.DeniedError{Status: fault.Status, Type: "InternalServiceErrorException", Message: "injected fault"}
	case fault.Status != 0:
		return nil, &sigv4.DeniedError{Status: fault.Status, Type: "AccessDeniedException", Message: "injected fault"}
	case fault.Garbage:
		return nil, errGarbage
	}
	return r.look(q), nil
}

// readQuestion checks what AWS checks.
func readQuestion(req *http.Request, region string) (RevocationRequest, error) {
	query := req.URL.Query()
	for _, k := range questionKey {
		if query.Get(k) == "" || k != "certificateHashes" && len(query[k]) != 1 {
			return RevocationRequest{}, invalid("1 validation error detected: Value at '" + k + "' failed to satisfy constraint: Member must not be null")
		}
	}
	q := RevocationRequest{Host: req.Host, ProfileVersion: query.Get("profileVersionArn"), Job: query.Get("jobArn"), CertificateHashes: query["certificateHashes"]}
	if query.Get("platformId") != RevocationPlatform {
		return q, invalid("unknown platform " + query.Get("platformId"))
	}
	at, err := time.Parse(time.RFC3339, query.Get("signatureTimestamp"))
	if err != nil {
		return q, invalid("signatureTimestamp is no time")
	}
	q.SignedAt = at
	profile, job := profileARN.FindStringSubmatch(q.ProfileVersion), jobARN.FindStringSubmatch(q.Job)
	if profile == nil || job == nil || profile[1] != region {
		return q, invalid("Invalid ARN: a profile version and a job of " + region + " are expected")
	}
	for _, h := range q.CertificateHashes {
		if raw, err := hex.DecodeString(h); err != nil || len(raw) != 96 || h != strings.ToLower(h) {
			return q, invalid("a certificate's hash is two SHA-384 in hexadecimal")
		}
	}
	return q, nil
}

func (r *Revocations) look(q RevocationRequest) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := []string{}
	for _, entity := range append([]string{q.ProfileVersion, q.Job}, q.CertificateHashes...) {
		if from, revoked := r.revoked[entity]; revoked && !q.SignedAt.Before(from) {
			found = append(found, entity)
		}
	}
	r.counts.Answered++
	if len(found) > 0 {
		r.counts.Revoked++
	}
	return found
}

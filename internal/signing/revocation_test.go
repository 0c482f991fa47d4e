package signing

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/signer"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nopsctl/nopsctl/internal/sigv4"
)

var errNoKey = errors.New("no such key")

// plain takes the prefix away that AWS's library puts before the host of this one operation.
type plain struct{ host string }

func (p plain) RoundTrip(r *http.Request) (*http.Response, error) {
	again := r.Clone(r.Context())
	again.Host, again.URL.Host = r.URL.Host, p.host // the name is signed
	return http.DefaultTransport.RoundTrip(again)
}

// TestRevocationsWithAWSLibrary asks the stand-in with the client that asks AWS.
func TestRevocationsWithAWSLibrary(t *testing.T) {
	key := sigv4.Key{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	a := must[*Authority](t)(NewAuthority(AuthorityOptions{}))
	chain, err := a.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	hashes := RevocationHashes(chain)
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	none := func(*Revocations) {}
	question := func() *signer.GetRevocationStatusInput {
		return &signer.GetRevocationStatusInput{CertificateHashes: hashes, JobArn: aws.String(testJob), ProfileVersionArn: aws.String(testProfile), PlatformId: aws.String(RevocationPlatform), SignatureTimestamp: &at}
	}
	for _, tc := range []struct {
		name   string
		set    func(*Revocations)
		ask    func(*signer.GetRevocationStatusInput, *aws.Credentials)
		want   []string
		refuse string // AWS's name of the error
	}{
		{"nothing revoked", none, nil, nil, ""},
		{"another job revoked", func(r *Revocations) { r.Revoke(testJob+"0", time.Time{}) }, nil, nil, ""},
		{"the job revoked", func(r *Revocations) { r.Revoke(testJob, time.Time{}) }, nil, []string{testJob}, ""},
		{"the job restored", func(r *Revocations) { r.Revoke(testJob, time.Time{}); r.Restore(testJob) }, nil, nil, ""},
		{"the profile revoked from before", func(r *Revocations) { r.Revoke(testProfile, at.Add(-time.Minute)) }, nil, []string{testProfile}, ""},
		{"the profile revoked from later", func(r *Revocations) { r.Revoke(testProfile, at.Add(time.Minute)) }, nil, nil, ""},
		{"a certificate and the job", func(r *Revocations) { r.Revoke(hashes[1], time.Time{}); r.Revoke(testJob, time.Time{}) }, nil, []string{testJob, hashes[1]}, ""},
		{"a fault", func(r *Revocations) { r.Inject(RevocationFault{Status: 403}) }, nil, nil, "AccessDeniedException"},
		{"throttled", func(r *Revocations) { r.Inject(RevocationFault{Status: 429}) }, nil, nil, "TooManyRequestsException"},
		{"broken", func(r *Revocations) { r.Inject(RevocationFault{Status: 500}) }, nil, nil, "InternalServiceErrorException"},
		{"garbage", func(r *Revocations) { r.Inject(RevocationFault{Garbage: true}) }, nil, nil, "any"},
		{"a fault that passes, late", func(r *Revocations) { r.Inject(RevocationFault{Delay: time.Millisecond, Times: 1}) }, nil, nil, ""},
		{"wrong secret", none, func(_ *signer.GetRevocationStatusInput, c *aws.Credentials) { c.SecretAccessKey = "guessed" }, nil, "InvalidSignatureException"},
		{"unknown key", none, func(_ *signer.GetRevocationStatusInput, c *aws.Credentials) { c.AccessKeyID = "AKIAUNKNOWN" }, nil, "UnrecognizedClientException"},
		{"a key that may not", func(r *Revocations) { r.Allow = func(string) bool { return false } }, nil, nil, "AccessDeniedException"},
		{"another platform", none, func(q *signer.GetRevocationStatusInput, _ *aws.Credentials) {
			q.PlatformId = aws.String("AWSLambda-SHA384-ECDSA")
		}, nil, "ValidationException"},
		{"another region's profile", none, func(q *signer.GetRevocationStatusInput, _ *aws.Credentials) {
			q.ProfileVersionArn = aws.String("arn:aws:signer:eu-west-1:123456789012:/signing-profiles/nops/AbCdEfGhIj")
		}, nil, "ValidationException"},
		{"a profile instead of its version", none, func(q *signer.GetRevocationStatusInput, _ *aws.Credentials) {
			q.ProfileVersionArn = aws.String("arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops")
		}, nil, "ValidationException"},
		{"half a hash", none, func(q *signer.GetRevocationStatusInput, _ *aws.Credentials) {
			q.CertificateHashes = []string{hashes[0][:96]}
		}, nil, "ValidationException"},
	} {
		r := &Revocations{Keys: func(id string) (sigv4.Key, error) {
			if id != key.AccessKeyID {
				return sigv4.Key{}, errNoKey
			}
			return key, nil
		}}
		tc.set(r)
		server := httptest.NewServer(r)
		defer server.Close()
		pair := aws.Credentials{AccessKeyID: key.AccessKeyID, SecretAccessKey: key.SecretAccessKey}
		q := question()
		if tc.ask != nil {
			tc.ask(q, &pair)
		}
		host := server.Listener.Addr().String()
		client := signer.New(signer.Options{
			Region: "us-east-1", BaseEndpoint: aws.String(server.URL), Credentials: credentials.NewStaticCredentialsProvider(pair.AccessKeyID, pair.SecretAccessKey, ""),
			HTTPClient: &http.Client{Transport: plain{host}}, RetryMaxAttempts: 1,
		})
		out, err := client.GetRevocationStatus(t.Context(), q)
		var api smithy.APIError
		switch {
		case tc.refuse == "any":
			if err == nil {
				t.Errorf("%s: no error", tc.name)
			}
		case tc.refuse != "":
			if !errors.As(err, &api) || api.ErrorCode() != tc.refuse {
				t.Errorf("%s: %v, want %s", tc.name, err, tc.refuse)
			}
		case err != nil:
			t.Errorf("%s: %v", tc.name, err)
		default:
			if diff := cmp.Diff(tc.want, out.RevokedEntities, cmpopts.EquateEmpty(), cmpopts.SortSlices(strings.Compare)); diff != "" {
				t.Errorf("%s: %s", tc.name, diff)
			}
			got := r.Requests()
			if len(got) != 1 || got[0].Key != key.AccessKeyID || got[0].Job != testJob || got[0].ProfileVersion != testProfile || !got[0].SignedAt.Equal(at) || !cmp.Equal(got[0].CertificateHashes, hashes, cmpopts.SortSlices(strings.Compare)) {
				t.Errorf("%s: asked %+v", tc.name, got)
			}
			if c := r.Counts(); c.Answered != 1 || (c.Revoked == 1) != (len(tc.want) > 0) {
				t.Errorf("%s: counted %+v", tc.name, c)
			}
		}
		if tc.refuse == "ValidationException" {
			if c := r.Counts(); c.Answered != 0 || c.Refused["ValidationException"] != 1 {
				t.Errorf("%s: counted %+v", tc.name, c)
			}
		}
	}
	// Without any signature nobody gets an answer.
	w := httptest.NewRecorder()
	(&Revocations{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/revocations?jobArn=x", nil))
	if w.Code != http.StatusForbidden || w.Header().Get("X-Amzn-Errortype") != "MissingAuthenticationTokenException" {
		t.Errorf("unsigned: %d %v", w.Code, w.Header())
	}
}

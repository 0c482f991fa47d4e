package notary

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/go-cmp/cmp"
	corex509 "github.com/notaryproject/notation-core-go/x509"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// TestCertificateHashes holds the names of certificates against sums that another program made, and against the lab's:
//
//	openssl asn1parse -in FILE -strparse 4 -noout -out tbs; sha384sum tbs
func TestCertificateHashes(t *testing.T) {
	dir := filepath.Join(moduleDir(t, "github.com/notaryproject/notation-go"), "verifier", "testdata")
	var chain []*x509.Certificate
	want := []string{
		"172ffe586a1c36e9303dd526dbf8475e839b2d8c5d832919fecb3154371c264942c6a463c8b016ca98d21e4df66ddff6",
		"c767518fc8b2931e370d565c1a81e83cc160d4d12cde23ffb34b760828a9077728efc114d70322d82a55047e875c448b",
		"b989f5d08d627c2524f939a5f4aa59adf4433c04b2d4027cc9da6e0504da18406c09e5a2db8bc0b022f011c426df8046",
	}
	for _, name := range []string{"truststore/x509/ca/valid-trust-store/NotationTestRoot.pem", "truststore/x509/ca/valid-trust-store-self-signed/openssl-minimum-self-signed.pem", "verifier/signing-cert.pem"} {
		read, err := corex509.ReadCertificateFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil || len(read) != 1 {
			t.Fatalf("%s: %d certificates, %v", name, len(read), err)
		}
		chain = append(chain, read...)
	}
	// As if they were a chain: each with the next, the last with itself.
	if diff := cmp.Diff([]string{want[0] + want[1], want[1] + want[2], want[2] + want[2]}, certificateHashes(chain)); diff != "" {
		t.Error(diff)
	}
	w := newWorld(t)
	made, err := w.aws.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(signing.RevocationHashes(made), certificateHashes(made)); diff != "" || len(made) != 4 {
		t.Error(diff)
	}
}

func question() Question {
	return Question{Region: "us-east-1", ProfileVersion: version, Job: job, SignedAt: time.Now().Add(-time.Hour).UTC().Truncate(time.Second), CertificateHashes: []string{strings.Repeat("ab", 96)}}
}

// TestAWSAsked: what reaches AWS's door, and how it is named when the user names it.
func TestAWSAsked(t *testing.T) {
	w := newWorld(t)
	tls := httptest.NewUnstartedServer(w.revocations)
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	defer tls.Close()
	pair := credentials.NewStaticCredentialsProvider(testKey.AccessKeyID, testKey.SecretAccessKey, "")
	for _, tc := range []struct {
		name, endpoint string
		client         *http.Client
		credentials    aws.CredentialsProvider
		reason         verdict.Reason
		says           string
	}{
		{"named, without TLS, on this machine", w.server.URL, nil, pair, "", ""},
		{"named with a slash at the end", w.server.URL + "/", nil, pair, "", ""},
		{"TLS, with its authority known", tls.URL, tls.Client(), pair, "", ""},
		{"TLS, with its authority unknown", tls.URL, &http.Client{}, pair, verdict.RevocationUnknown, "unknown authority"},
		{"wrong secret", w.server.URL, nil, credentials.NewStaticCredentialsProvider(testKey.AccessKeyID, "guessed", ""), verdict.NoCredentials, "InvalidSignatureException"},
		{"empty credentials", w.server.URL, nil, aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, nil }), verdict.NoCredentials, "empty"},
		{"no credentials", w.server.URL, nil, aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, errNoKey }), verdict.NoCredentials, "no such key"},
	} {
		a, err := NewAWS(AWSOptions{Endpoint: tc.endpoint, HTTP: tc.client, Credentials: tc.credentials})
		if err != nil {
			t.Fatal(err)
		}
		before := w.asked()
		answer, err := a.Check(t.Context(), question())
		if tc.reason == "" {
			asked := w.revocations.Requests()
			if err != nil || answer.Recorded || answer.At.IsZero() || w.asked() != before+1 || strings.HasPrefix(asked[len(asked)-1].Host, "data-") {
				t.Errorf("%s: %+v, %v, asked %+v", tc.name, answer, err, asked)
			}
			continue
		}
		var u *UnansweredError
		if !errors.As(err, &u) || u.Reason != tc.reason || !strings.Contains(u.Message, tc.says) || w.asked() != before {
			t.Errorf("%s: %v", tc.name, err)
		}
		if strings.Contains(fmt.Sprint(err), testKey.SecretAccessKey) {
			t.Errorf("%s: the secret is in the message", tc.name)
		}
	}
	// The region goes into a host name.
	for _, region := range []string{"", "evil.example/", "us-east-1.evil.example", "US-EAST-1", "us-east-1/", "us-east-1#", "us_east_1"} {
		a, err := NewAWS(AWSOptions{Credentials: pair, HTTP: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			t.Errorf("asked at %s", r.URL)
			return nil, errNoKey
		})}})
		if err != nil {
			t.Fatal(err)
		}
		q := question()
		q.Region = region
		if _, err := a.Check(t.Context(), q); err == nil {
			t.Errorf("region %q is asked", region)
		}
	}
	// Where nobody names an endpoint, it is AWS's of the region; nothing leaves this machine to find that out.
	for region, host := range map[string]string{"us-east-1": "data-signer.us-east-1.amazonaws.com", "us-gov-west-1": "data-signer.us-gov-west-1.amazonaws.com", "cn-north-1": "data-signer.cn-north-1.amazonaws.com.cn"} {
		var asked []string
		a, err := NewAWS(AWSOptions{Credentials: pair, HTTP: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Scheme+"://"+r.URL.Host+r.URL.Path)
			return nil, errNoKey
		})}})
		if err != nil {
			t.Fatal(err)
		}
		q := question()
		q.Region = region
		if _, err := a.Check(t.Context(), q); err == nil || len(asked) == 0 || asked[0] != "https://"+host+"/revocations" {
			t.Errorf("%s: asked at %v, %v", region, asked, err)
		}
	}
}

// TestCredentialsAreLookedForLate: the default chain is not touched before there is a question, and its lack is told as such.
func TestCredentialsAreLookedForLate(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_ROLE_ARN": "", "AWS_REGION": "", "AWS_CA_BUNDLE": "",
	} {
		t.Setenv(name, value)
	}
	w := newWorld(t)
	chain := func(o *Options) { o.Credentials = nil }
	e := w.engine(chain)
	sig := w.sign(w.aws, awsSigned())
	w.want("none, required", e.Verify(t.Context(), w.artifact, sig, require, awsLeaf), verdict.NoCredentials, "AWS credentials")
	f := e.Verify(t.Context(), w.artifact, sig, best, awsLeaf)
	w.want("none, best effort", f, "", "")
	if !strings.Contains(f.Revocation, "not checked: ") || !strings.Contains(f.Revocation, "AWS credentials") {
		t.Errorf("told: %q", f.Revocation)
	}
	w.want("none, off", e.Verify(t.Context(), w.artifact, sig, off, awsLeaf), "", "")
	if w.asked() != 0 || len(w.revocations.Counts().Refused) != 0 {
		t.Error("asked in nobody's name")
	}
	// An engine that asked nothing yet finds those that came later.
	e = w.engine(chain)
	t.Setenv("AWS_ACCESS_KEY_ID", testKey.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testKey.SecretAccessKey)
	w.want("from the environment", e.Verify(t.Context(), w.artifact, sig, require, awsLeaf), "", "")
	if w.asked() != 1 {
		t.Errorf("asked %d times", w.asked())
	}
	// What of the user's configuration cannot be used is a lack of credentials too, and is named.
	t.Setenv("AWS_PROFILE", "absent")
	w.want("a profile that is not there", w.engine(chain).Verify(t.Context(), w.artifact, sig, require, awsLeaf), verdict.NoCredentials, "absent")
}

// TestSilence: what answers late, endlessly or not at all costs its time once.
func TestSilence(t *testing.T) {
	w := newWorld(t)
	sig := w.sign(w.aws, awsSigned())
	var calls atomic.Int64
	hold := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(hold)
	pair := credentials.NewStaticCredentialsProvider(testKey.AccessKeyID, testKey.SecretAccessKey, "")
	now := time.Now()
	a, err := NewAWS(AWSOptions{Endpoint: slow.URL, Credentials: pair, Timeout: 50 * time.Millisecond, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	e := w.engine(func(o *Options) { o.Checker = a })
	w.want("late", e.Verify(t.Context(), w.artifact, sig, require, awsLeaf), verdict.RevocationUnknown, "in time")
	first := calls.Load()
	w.want("late, asked again at once", e.Verify(t.Context(), w.artifact, sig, require, awsLeaf), verdict.RevocationUnknown, "in time")
	if first == 0 || calls.Load() != first {
		t.Errorf("%d calls, then %d: the same silence is waited for twice", first, calls.Load())
	}
	now = now.Add(time.Minute)
	w.want("late, asked again later", e.Verify(t.Context(), w.artifact, sig, require, awsLeaf), verdict.RevocationUnknown, "in time")
	if calls.Load() == first {
		t.Error("not tried again after a minute")
	}
	// When the artifact's whole time is up, that is the reason.
	now = now.Add(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	w.want("the artifact's time is up", e.Verify(ctx, w.artifact, sig, require, awsLeaf), verdict.TimedOut, "")
	// Without end.
	endless := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = rw.Write([]byte(`{"revokedEntities":["`))
		for r.Context().Err() == nil {
			if _, err := rw.Write([]byte(strings.Repeat("x", 64<<10))); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	w.want("endless", w.engine(func(o *Options) { o.Trust.AWSSigner.Endpoint = endless.URL }).Verify(t.Context(), w.artifact, sig, require, awsLeaf), verdict.RevocationUnknown, "")
}

// TestCache: the same signature is asked about once in a while, another one by itself.
func TestCache(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	e := w.engine(func(o *Options) { o.Now, o.CacheFor = func() time.Time { return now }, time.Minute })
	one := w.sign(w.aws, awsSigned())
	two := w.sign(w.aws, awsSigned(func(o *signing.NotaryOptions) { o.Job = job + "0" }))
	for i, step := range []struct {
		do   func()
		sig  int
		want verdict.Reason
		asks int
	}{
		{func() {}, 1, "", 1},
		{func() {}, 1, "", 1},
		{func() {}, 2, "", 2},
		{func() { w.revocations.Revoke(job, time.Time{}) }, 1, "", 2}, // not known yet
		{func() { now = now.Add(2 * time.Minute) }, 1, verdict.SignatureRevoked, 3},
		{func() { w.revocations.Restore(job) }, 1, verdict.SignatureRevoked, 3},
		{func() {}, 2, "", 4},
		{func() { now = now.Add(2 * time.Minute) }, 1, "", 5},
		{func() {
			now = now.Add(2 * time.Minute)
			w.revocations.Inject(signing.RevocationFault{Status: 403, Times: 1})
		}, 1, verdict.NoCredentials, 6},
		{func() {}, 1, "", 7}, // what was not answered is asked again
	} {
		step.do()
		s := one
		if step.sig == 2 {
			s = two
		}
		w.want(fmt.Sprintf("step %d", i), e.Verify(t.Context(), w.artifact, s, require, awsLeaf), step.want, "")
		if w.asked() != step.asks {
			t.Errorf("step %d: asked %d times by now, want %d", i, w.asked(), step.asks)
		}
	}
}

// TestEvidence: answers are taken down where there is a way out, and count where there is none, for a while.
func TestEvidence(t *testing.T) {
	w := newWorld(t)
	lasting := func(id string) oci.Signature {
		return w.sign(w.aws, awsSigned(func(o *signing.NotaryOptions) { o.Job, o.Expires = job+id, time.Time{} }))
	}
	good, bad, stranger := lasting(""), lasting("0"), lasting("1")
	w.revocations.Revoke(job+"0", time.Time{})
	recorder := &Recorder{}
	at := time.Now()
	e := w.engine(func(o *Options) { o.Record, o.Now = recorder, func() time.Time { return at } })
	w.want("good, recorded", e.Verify(t.Context(), w.artifact, good, require, awsLeaf), "", "")
	w.want("good again, recorded once", e.Verify(t.Context(), w.artifact, good, require, awsLeaf), "", "")
	w.want("revoked, recorded", e.Verify(t.Context(), w.artifact, bad, require, awsLeaf), verdict.SignatureRevoked, job)
	raw, err := recorder.Evidence().JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := recorder.Evidence().JSON()
	if err != nil || string(again) != string(raw) {
		t.Error("the same evidence is written in two ways")
	}
	parsed, err := ParseEvidence(raw)
	if err != nil || len(parsed.Answers) != 2 {
		t.Fatalf("%d answers, %v:\n%s", len(parsed.Answers), err, raw)
	}
	if diff := cmp.Diff(recorder.Evidence(), parsed); diff != "" {
		t.Error(diff)
	}
	asked := w.asked()
	w.server.Close() // no way out from here on
	day := 24 * time.Hour
	for _, tc := range []struct {
		name   string
		later  time.Duration
		oldest time.Duration
		sig    int
		reason verdict.Reason
		says   string
	}{
		{"at once", 0, 0, 1, "", ""},
		{"after six days", 6 * day, 0, 1, "", ""},
		{"after eight days", 8 * day, 0, 1, verdict.RevocationUnknown, "older than 168h"},
		{"after eight days, of thirty", 8 * day, 30 * day, 1, "", ""},
		{"revoked, at once", 0, 0, 2, verdict.SignatureRevoked, "recorded on"},
		{"revoked, after a year", 365 * day, 0, 2, verdict.SignatureRevoked, "recorded on"},
		{"nothing recorded", 0, 0, 3, verdict.RevocationUnknown, "says nothing of it"},
		{"a clock that is wrong", -day, 0, 1, verdict.RevocationUnknown, "clock"},
	} {
		e := w.engine(func(o *Options) {
			o.Trust.AWSSigner.Evidence, o.Trust.AWSSigner.EvidenceFile, o.Trust.AWSSigner.MaxEvidenceAge = raw, "evidence.json", tc.oldest
			o.Now = func() time.Time { return at.Add(tc.later) }
		})
		sig := good
		switch tc.sig {
		case 2:
			sig = bad
		case 3:
			sig = stranger
		}
		f := e.Verify(t.Context(), w.artifact, sig, require, awsLeaf)
		w.want(tc.name, f, tc.reason, tc.says)
		if f.Outcome.OK() && !strings.Contains(f.Revocation, "evidence of "+at.UTC().Format("2006-01-02")) {
			t.Errorf("%s: told %q", tc.name, f.Revocation)
		}
	}
	if w.asked() != asked {
		t.Error("asked all the same")
	}
	// What is not evidence.
	text := string(raw)
	for name, change := range map[string][2]string{
		"another kind":       {`"RevocationEvidence"`, `"ImagePolicy"`},
		"another version":    {`"nopsctl.io/v1"`, `"nopsctl.io/v2"`},
		"an unknown field":   {`"answers"`, `"note": "", "answers"`},
		"a field twice":      {`"answers"`, `"kind": "RevocationEvidence", "answers"`},
		"no time":            {`"askedAt"`, `"saidAt"`},
		"nothing of revoked": {`"revoked": []`, `"revoked": null`},
		"more behind":        {"\n}\n", "\n}\n{}"},
		"half":               {"]", ""},
	} {
		changed := strings.Replace(text, change[0], change[1], 1)
		if _, err := ParseEvidence([]byte(changed)); err == nil || changed == text {
			t.Errorf("%s: taken as evidence", name)
		}
	}
	// Of two answers about one signature, the one that says revoked counts.
	twice := parsed
	revoked := parsed.Answers[0]
	revoked.Revoked, revoked.AskedAt = []string{revoked.Job}, revoked.AskedAt.Add(-day)
	clean := parsed.Answers[0]
	clean.Revoked = []string{}
	for _, order := range [][]Recorded{{revoked, clean}, {clean, revoked}} {
		twice.Answers = order
		answer, err := twice.checker(policy.DefaultEvidenceAge, func() time.Time { return at }, nil).Check(t.Context(), clean.Question)
		if err != nil || len(answer.Revoked) != 1 {
			t.Errorf("two answers: %+v, %v", answer, err)
		}
	}
}

// TestCheckersMayNotDecide: whatever a checker returns, an error is never success where it must be known, nor a reason outside its outcome.
func TestCheckersMayNotDecide(t *testing.T) {
	w := newWorld(t)
	sig := w.sign(w.aws, awsSigned())
	for name, checker := range map[string]CheckerFunc{
		"an error": func(context.Context, Question) (Answer, error) { return Answer{}, errNoKey },
		"a reason of another outcome": func(context.Context, Question) (Answer, error) {
			return Answer{}, &UnansweredError{Reason: verdict.NoSignature, Message: "x"}
		},
		"no reason":            func(context.Context, Question) (Answer, error) { return Answer{}, &UnansweredError{} },
		"an error and revoked": func(context.Context, Question) (Answer, error) { return Answer{Revoked: []string{job}}, errNoKey },
	} {
		f := w.engine(func(o *Options) { o.Checker = checker }).Verify(t.Context(), w.artifact, sig, require, awsLeaf)
		if f.Outcome != verdict.Unknown {
			t.Errorf("%s: %+v", name, f)
		}
	}
	f := w.engine(func(o *Options) {
		o.Checker = CheckerFunc(func(context.Context, Question) (Answer, error) { panic("at the disco") })
	}).Verify(t.Context(), w.artifact, sig, best, awsLeaf)
	w.want("a panic", f, verdict.Panicked, "disco")
}

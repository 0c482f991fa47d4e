// Package sigv4 verifies AWS Signature Version 4 for the servers here that stand in for AWS: what signs itself wrongly there must
// not pass here. Only the Authorization header is understood, no presigned URL.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	amzTime    = "20060102T150405Z"
	amzDay     = "20060102"
	// clockSkew is how far a signature's time may be from ours.
	clockSkew = 5 * time.Minute
)

// Key is a key pair; SessionToken is set for temporary ones only.
type Key struct {
	AccessKeyID, SecretAccessKey, SessionToken string
}

// Verifier checks signatures of AWS Signature Version 4 in the Authorization header.
type Verifier struct {
	Region, Service string
	Now             func() time.Time             // nil means time.Now
	Lookup          func(id string) (Key, error) // of an access key ID; any error: unknown
}

// DeniedError is a request that is not let in, and the answer to it. Its message is that of AWS, and names no key: clients log it.
type DeniedError struct {
	Status  int
	Type    string // AWS's name of the error
	Reason  string // ours, for counters
	Message string
}

func (d *DeniedError) Error() string { return d.Message }

func forbid(kind, reason, format string, args ...any) error {
	return &DeniedError{Status: http.StatusForbidden, Type: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Reasons of denial by signature.
const (
	Unsigned  = "unsigned"
	Malformed = "malformed_signature"
	Scope     = "wrong_scope"
	Expired   = "wrong_time"
	Unknown   = "unknown_key"
	Token     = "wrong_token"
	Signature = "wrong_signature"
)

// authorization is a parsed Authorization header.
type authorization struct {
	keyID, day, region, service string
	signed                      []string
	signature                   []byte
}

// parseAuthorization reads
//
//	AWS4-HMAC-SHA256 Credential=ID/DAY/REGION/SERVICE/aws4_request, SignedHeaders=a;b, Signature=HEX
//
// with the three parts in any order, separated by commas with or without spaces.
func parseAuthorization(header string) (authorization, error) {
	var a authorization
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return a, fmt.Errorf("unsupported algorithm, expected %s", algorithm)
	}
	parts := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := parts[name]; !ok || twice || value == "" {
			return a, fmt.Errorf("malformed part %q", name)
		}
		parts[name] = value
	}
	for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
		if parts[name] == "" {
			return a, fmt.Errorf("the Authorization header requires the parameter '%s'", name)
		}
	}
	if len(parts) != 3 {
		return a, errors.New("unexpected parts beside Credential, SignedHeaders and Signature")
	}
	scope := strings.Split(parts["Credential"], "/")
	if len(scope) != 5 || slices.Contains(scope, "") || scope[4] != terminator {
		return a, fmt.Errorf("the Credential must be ID/DATE/REGION/SERVICE/%s", terminator)
	}
	a.keyID, a.day, a.region, a.service = scope[0], scope[1], scope[2], scope[3]
	a.signed = strings.Split(parts["SignedHeaders"], ";")
	if !slices.IsSorted(a.signed) || len(slices.Compact(slices.Clone(a.signed))) != len(a.signed) {
		return a, errors.New("the SignedHeaders must be sorted, each name once")
	}
	for _, name := range a.signed {
		if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, " \t") {
			return a, errors.New("the SignedHeaders must be lower-case names")
		}
	}
	signature, err := hex.DecodeString(parts["Signature"])
	if err != nil || len(signature) != sha256.Size || parts["Signature"] != strings.ToLower(parts["Signature"]) {
		return a, fmt.Errorf("the Signature must be %d lower-case hexadecimal digits", 2*sha256.Size)
	}
	a.signature = signature
	return a, nil
}

// Verify checks the signature of a request with this body and returns the ID of the access key that made it. Its error is
// a *DeniedError.
func (v Verifier) Verify(r *http.Request, body []byte) (string, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", forbid("MissingAuthenticationTokenException", Unsigned, "Missing Authentication Token")
	}
	if len(headers) > 1 {
		return "", forbid("IncompleteSignatureException", Malformed, "more than one Authorization header")
	}
	a, err := parseAuthorization(headers[0])
	if err != nil {
		return "", forbid("IncompleteSignatureException", Malformed, "%v", err)
	}
	at, err := v.time(r, a)
	if err != nil {
		return "", err
	}
	key, err := v.Lookup(a.keyID)
	if err != nil {
		return "", forbid("UnrecognizedClientException", Unknown, "The security token included in the request is invalid.")
	}
	// A long-term key goes without a token, a temporary one with its own. vmagent sends the token unsigned, and AWS takes it.
	if token := r.Header.Get("X-Amz-Security-Token"); !hmac.Equal([]byte(token), []byte(key.SessionToken)) {
		return "", forbid("UnrecognizedClientException", Token, "The security token included in the request is invalid.")
	}
	want, err := v.expected(r, body, a, key, at)
	if err != nil {
		return "", err
	}
	if !hmac.Equal(want.signature, a.signature) {
		return "", mismatch()
	}
	return a.keyID, nil
}

func mismatch() error {
	return forbid("InvalidSignatureException", Signature, "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
}

// time checks scope and time, and returns the time that was signed.
func (v Verifier) time(r *http.Request, a authorization) (time.Time, error) {
	switch {
	case a.region != v.Region:
		return time.Time{}, forbid("InvalidSignatureException", Scope, "Credential should be scoped to a valid region, not '%s'.", a.region)
	case a.service != v.Service:
		return time.Time{}, forbid("InvalidSignatureException", Scope, "Credential should be scoped to correct service: '%s'.", v.Service)
	case !slices.Contains(a.signed, "host"):
		return time.Time{}, forbid("InvalidSignatureException", Malformed, "'Host' must be a 'SignedHeader' in the AWS Authorization.")
	case !slices.Contains(a.signed, "x-amz-date"):
		return time.Time{}, forbid("InvalidSignatureException", Malformed, "'X-Amz-Date' must be a 'SignedHeader' in the AWS Authorization.")
	}
	dates := r.Header.Values("X-Amz-Date")
	if len(dates) != 1 {
		return time.Time{}, forbid("IncompleteSignatureException", Malformed, "Authorization header requires existence of one 'X-Amz-Date' header.")
	}
	at, err := time.Parse(amzTime, dates[0])
	if err != nil || at.Format(amzTime) != dates[0] {
		return time.Time{}, forbid("IncompleteSignatureException", Malformed, "Date must be in ISO-8601 'basic format'.")
	}
	if at.Format(amzDay) != a.day {
		return time.Time{}, forbid("InvalidSignatureException", Scope, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	here := now().UTC().Truncate(time.Second)
	switch {
	case at.Before(here.Add(-clockSkew)):
		return time.Time{}, forbid("InvalidSignatureException", Expired, "Signature expired: %s is now earlier than %s (%s - 5 min.)", at.Format(amzTime), here.Add(-clockSkew).Format(amzTime), here.Format(amzTime))
	case at.After(here.Add(clockSkew)):
		return time.Time{}, forbid("InvalidSignatureException", Expired, "Signature not yet current: %s is still later than %s (%s + 5 min.)", at.Format(amzTime), here.Add(clockSkew).Format(amzTime), here.Format(amzTime))
	}
	return at, nil
}

// expected signs what the client says it signed, with the key it says it used.
//
// The request that is signed again holds the signed headers and nothing else, because the signer takes all it finds: it
// adds content-length whenever the length is positive and the token whenever the key has one, so each is given only if the
// client signed it.
func (v Verifier) expected(r *http.Request, body []byte, a authorization, key Key, at time.Time) (authorization, error) {
	again := &http.Request{Method: r.Method, URL: &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}, Host: r.Host, Header: http.Header{}}
	credentials := aws.Credentials{AccessKeyID: key.AccessKeyID, SecretAccessKey: key.SecretAccessKey}
	for _, name := range a.signed {
		values := r.Header.Values(name)
		switch name {
		case "host":
			continue
		case "content-length":
			again.ContentLength = int64(len(body))
			continue
		case "x-amz-security-token":
			credentials.SessionToken = key.SessionToken
		}
		if len(values) == 0 {
			return authorization{}, forbid("InvalidSignatureException", Malformed, "The signed header '%s' is not in the request.", name)
		}
		again.Header[textproto.CanonicalMIMEHeaderKey(name)] = slices.Clone(values)
	}
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	// The header is optional; one that speaks of another body is a lie, signed or not.
	if said := r.Header.Get("X-Amz-Content-Sha256"); said != "" && said != digest {
		return authorization{}, mismatch()
	}
	if err := v4.NewSigner().SignHTTP(r.Context(), credentials, again, digest, v.Service, v.Region, at); err != nil {
		return authorization{}, forbid("InvalidSignatureException", Signature, "The request could not be signed again: %v", err)
	}
	want, err := parseAuthorization(again.Header.Get("Authorization"))
	if err != nil {
		return authorization{}, forbid("InvalidSignatureException", Signature, "The request could not be signed again: %v", err)
	}
	if !slices.Equal(want.signed, a.signed) {
		// Headers that proxies change, such as user-agent; the signer leaves them out, AWS advises the same.
		return authorization{}, forbid("InvalidSignatureException", Signature, "The signed headers '%s' include some that must not be signed.", strings.Join(a.signed, ";"))
	}
	return want, nil
}

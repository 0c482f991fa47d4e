// Package probe takes one connection apart into its stages – name, connection, encryption, answer – and says at which of
// them it fails, why, and how long each took.
//
// It is the leaf that Test Connectivity stands on: nopsctl runs it from where the user sits, and the heartbeat agent's
// probe subcommand runs it from inside the cluster and prints a Report. Results are made to be compared: the text of an
// outcome holds no ports of our side, no times and no credentials.
//
// The package imports the standard library only.
package probe

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"time"
)

// The stages, in the order they are tried. StageAuth and StageData are not tried by Run; they are appended by callers that
// understand the answer (a key accepted, samples delivered).
const (
	StageDNS  = "dns"
	StageTCP  = "tcp"
	StageTLS  = "tls"
	StageHTTP = "http"
	StageAuth = "auth"
	StageData = "data"
)

// The outcomes of a stage. A stage is skipped when an earlier one failed, or when there is nothing to do (no name to look
// up, no encryption asked for); its Detail says which.
const (
	OK      = "ok"
	Failed  = "failed"
	Skipped = "skipped"
)

// A Code classifies why a stage failed. Codes are stable; hints and exit codes may hang on them.
type Code string

// The codes.
const (
	CodeNone             Code = ""
	CodeBadURL           Code = "bad-url"
	CodeNXDomain         Code = "nxdomain"          // the name does not exist
	CodeDNSFailure       Code = "dns-failure"       // the resolver did not answer, or not sensibly
	CodeRefused          Code = "refused"           // nothing listens, or something rejects
	CodeUnreachable      Code = "unreachable"       // no route
	CodeTimeout          Code = "timeout"           // silence: typical of a firewall or security group
	CodeReset            Code = "reset"             // the connection was cut
	CodeClosed           Code = "closed"            // the other side hung up without an answer
	CodeProxyRefused     Code = "proxy-refused"     // the proxy would not open the connection
	CodeProxyAuth        Code = "proxy-auth"        // the proxy wants credentials (407)
	CodeUnknownAuthority Code = "unknown-authority" // the certificate's issuer is not trusted here
	CodeNameMismatch     Code = "name-mismatch"     // the certificate is for another name
	CodeExpired          Code = "expired"           // the certificate's time is over
	CodeNotYetValid      Code = "not-yet-valid"     // the certificate's time has not come: look at the clock
	CodeNotTLS           Code = "not-tls"           // what answered does not speak TLS
	CodeTLSFailure       Code = "tls-failure"
	CodeBadCA            Code = "bad-ca" // the CA bundle given to us holds no certificate
	CodeNotHTTP          Code = "not-http"
	CodeHTTPStatus       Code = "http-status" // an answer came, and is not an expected one
	CodeCancelled        Code = "cancelled"
	CodeUnauthorized     Code = "unauthorized" // auth: the key is not known
	CodeForbidden        Code = "forbidden"    // auth: the key may not do this
	CodeUnknown          Code = "unknown"
)

// DefaultTimeout bounds each stage of a Target that names no timeout.
const DefaultTimeout = 10 * time.Second

// DefaultMaxBody is how much of an answer is kept when the Target does not say.
const DefaultMaxBody = 64 << 10

// A Target is one connection to try.
type Target struct {
	// Name says what the target is to us, such as "nops-api". It is copied to the result.
	Name string
	// URL is http or https.
	URL string
	// Method is GET when empty.
	Method string
	// Header is sent as it is. Its values are replaced by "REDACTED" wherever they would appear in the result.
	Header http.Header
	// Body is sent when not empty.
	Body []byte
	// CABundle is PEM that is trusted besides the system's roots; nil means the system's roots alone.
	CABundle []byte
	// Proxy chooses the proxy, as in http.Transport (pass http.ProxyFromEnvironment to honour the environment); nil means none.
	Proxy func(*http.Request) (*url.URL, error)
	// Expect judges the status of the answer; nil means that every status below 500 will do: something is there and speaks.
	Expect func(status int) error
	// Timeout bounds each stage; zero means DefaultTimeout.
	Timeout time.Duration
	// MaxBody bounds the kept part of the answer; zero means DefaultMaxBody.
	MaxBody int64
	// Resolve looks a name up; nil means the system's resolver.
	Resolve func(ctx context.Context, host string) ([]string, error)
	// Now is the clock that stages and certificates are measured with; nil means time.Now.
	Now func() time.Time
}

// StageResult is how one stage went.
type StageResult struct {
	Stage   string `json:"stage"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"` // what was found: addresses, certificate, status
	Code    Code   `json:"code,omitempty"`   // why it failed, for programs
	Error   string `json:"error,omitempty"`  // why it failed, for people, in one stable line
	Millis  int64  `json:"millis"`
}

// Result is how the connection to one target went.
type Result struct {
	Target     string        `json:"target"`
	Host       string        `json:"host"` // host:port that was meant, never a proxy
	Proxy      string        `json:"proxy,omitempty"`
	Stages     []StageResult `json:"stages"`
	Status     int           `json:"status,omitempty"`
	ServerDate time.Time     `json:"server_date,omitzero"` // the answer's Date header, for the clock-skew check
	// ClockSkewMillis is how far our clock is ahead of the server's; the Date header has a resolution of one second.
	ClockSkewMillis int64 `json:"clock_skew_millis,omitempty"`
	// Header of the answer. It stays in the process.
	Header http.Header `json:"-"`
	// Body is the beginning of the answer. It stays in the process: reports hold what was learned from it.
	Body []byte `json:"-"`
}

// OK says whether no stage failed.
func (r Result) OK() bool {
	_, failed := r.Failure()
	return !failed && len(r.Stages) > 0
}

// Failure is the first stage that failed.
func (r Result) Failure() (StageResult, bool) {
	for _, s := range r.Stages {
		if s.Outcome == Failed {
			return s, true
		}
	}
	return StageResult{}, false
}

// Stage finds a stage by name.
func (r Result) Stage(name string) (StageResult, bool) {
	for _, s := range r.Stages {
		if s.Stage == name {
			return s, true
		}
	}
	return StageResult{}, false
}

// TLSVersion is the oldest version of TLS that is spoken.
const TLSVersion = tls.VersionTLS12

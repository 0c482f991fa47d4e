package connectivity

import (
	"context"
	"errors"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// Reason says for programs why a check did not pass. Reasons are stable; messages are for people and may change.
type Reason string

// The reasons beyond the codes of package probe. A passed check has none.
const (
	none Reason = ""

	ReasonEarlierFailure Reason = "earlier-failure"
	ReasonNotNeeded      Reason = "not-needed"
	ReasonNotAsked       Reason = "not-asked"
	ReasonNoKey          Reason = "no-api-key"
	ReasonNoCluster      Reason = "no-cluster"
	ReasonNoClusterARN   Reason = "no-cluster-arn"
	ReasonNoTest         Reason = "no-test"
	ReasonNoProbe        Reason = "no-probe"
	ReasonProbeFailed    Reason = "probe-failed"
	ReasonNotReported    Reason = "not-reported"
	ReasonNoDate         Reason = "no-date"
	ReasonClockSkew      Reason = "clock-skew"
	ReasonNotOffered     Reason = "not-offered"
	ReasonNotFound       Reason = "not-found"
	ReasonRateLimited    Reason = "rate-limited"
	ReasonServerError    Reason = "server-error"
	ReasonNoAnswer       Reason = "no-answer"
	ReasonForeignAnswer  Reason = "foreign-answer"
	ReasonNoInsights     Reason = "container-insights-disabled"
	ReasonNoVmagent      Reason = "no-vmagent"
	ReasonVmagentSilent  Reason = "vmagent-silent"
	ReasonNothingSent    Reason = "nothing-sent"
	ReasonStoreRefuses   Reason = "store-refuses"
	ReasonStoreBlocked   Reason = "store-blocked"
	ReasonStoreNoAnswer  Reason = "store-no-answer"
	ReasonDropped        Reason = "dropped"
	ReasonTooEarly       Reason = "too-early"
	ReasonNoTargets      Reason = "no-targets"
	ReasonAllDown        Reason = "all-targets-down"
	ReasonSomeDown       Reason = "some-targets-down"
	ReasonNotReceived    Reason = "not-received"
	ReasonTooOld         Reason = "too-old"
	ReasonStoreNotAsked  Reason = "store-not-asked"
	ReasonOpenWarnings   Reason = "open-warnings"
)

// ReasonDoc documents a reason.
type ReasonDoc struct {
	Reason Reason
	About  string
}

// Reasons are all that a check can have.
func Reasons() []ReasonDoc {
	return []ReasonDoc{
		{ReasonEarlierFailure, "An earlier stage of the same connection failed, or what this check looks at was not told."},
		{ReasonNotNeeded, "There is nothing to do at this stage: no name to look up, no encryption asked for."},
		{ReasonNotAsked, "The command was not told to look."},
		{ReasonNoKey, "No API key was given, and that of the agents is not readable here."},
		{ReasonNoCluster, "The cluster cannot be asked."},
		{ReasonNoClusterARN, "Nobody says which cluster this is."},
		{ReasonNoTest, "The platform started no test, so there is no nonce to look for."},
		{ReasonNoProbe, "No probe ran in the cluster."},
		{ReasonProbeFailed, "The probe could not be started in the cluster, or did not come to its end."},
		{ReasonNotReported, "The probe's report has nothing on it."},
		{ReasonNoDate, "The answer has no Date, so clocks cannot be compared."},
		{ReasonClockSkew, "The clocks differ by more than a minute."},
		{ReasonNotOffered, "This platform does not offer it."},
		{ReasonNotFound, "The platform does not know this cluster."},
		{ReasonRateLimited, "The platform asks to slow down."},
		{ReasonServerError, "The platform has a problem of its own (HTTP 5xx)."},
		{ReasonNoAnswer, "The platform did not answer."},
		{ReasonForeignAnswer, "Something answers that is not the platform."},
		{ReasonNoInsights, "Container insights is disabled: no metrics are collected."},
		{ReasonNoVmagent, "The probe was not told where vmagent is."},
		{ReasonVmagentSilent, "vmagent could not be asked."},
		{ReasonNothingSent, "vmagent has sent nothing yet."},
		{ReasonStoreRefuses, "The metrics store refuses samples (HTTP 4xx)."},
		{ReasonStoreBlocked, "The metrics store throttles or has a problem of its own (HTTP 429, 5xx): samples wait."},
		{ReasonStoreNoAnswer, "Requests to the metrics store end without an answer."},
		{ReasonDropped, "The metrics store rejected blocks, and vmagent dropped them."},
		{ReasonTooEarly, "vmagent has started only now: first scrapes are due."},
		{ReasonNoTargets, "vmagent has found nothing to scrape."},
		{ReasonAllDown, "No scrape target is up."},
		{ReasonSomeDown, "Some scrape targets are down."},
		{ReasonNotReceived, "The platform, or the metrics store, has not received it."},
		{ReasonTooOld, "What was received last is too old to prove anything."},
		{ReasonStoreNotAsked, "The platform could not ask the metrics store."},
		{ReasonOpenWarnings, "The platform holds warnings open."},
		{Reason(probe.CodeBadURL), "The address is not one."},
		{Reason(probe.CodeNXDomain), "The name does not exist."},
		{Reason(probe.CodeDNSFailure), "The resolver did not answer, or not sensibly."},
		{Reason(probe.CodeRefused), "Nothing listens there, or something rejects the connection."},
		{Reason(probe.CodeUnreachable), "There is no route."},
		{Reason(probe.CodeTimeout), "Silence, as a firewall or security group makes it."},
		{Reason(probe.CodeReset), "The connection was cut."},
		{Reason(probe.CodeClosed), "The other side hung up without an answer."},
		{Reason(probe.CodeProxyRefused), "The proxy would not open the connection."},
		{Reason(probe.CodeProxyAuth), "The proxy wants credentials (HTTP 407)."},
		{Reason(probe.CodeUnknownAuthority), "The certificate's issuer is not trusted."},
		{Reason(probe.CodeNameMismatch), "The certificate is for another name."},
		{Reason(probe.CodeExpired), "The certificate's time is over."},
		{Reason(probe.CodeNotYetValid), "The certificate's time has not come: look at the clock."},
		{Reason(probe.CodeNotTLS), "What answers does not speak TLS."},
		{Reason(probe.CodeTLSFailure), "The encrypted connection was not made for another reason."},
		{Reason(probe.CodeBadCA), "The CA bundle holds no certificate."},
		{Reason(probe.CodeNotHTTP), "What answers does not speak HTTP."},
		{Reason(probe.CodeHTTPStatus), "An answer came, and is not an expected one."},
		{Reason(probe.CodeUnauthorized), "The key or signature is not accepted (HTTP 401)."},
		{Reason(probe.CodeForbidden), "The key may not do this (HTTP 403)."},
		{Reason(probe.CodeCancelled), "The command was cancelled."},
		{Reason(probe.CodeUnknown), "None of the others."},
	}
}

// apiReason is why a call of the nOps API failed. Some words of the client mean something else for a connection.
func apiReason(err error) Reason {
	var e *nopsclient.Error
	switch {
	case err == nil:
		return none
	case errors.Is(err, context.Canceled):
		return Reason(probe.CodeCancelled)
	case !errors.As(err, &e):
		return Reason(probe.CodeUnknown)
	}
	switch e.Kind {
	case nopsclient.KindUnauthorized:
		return Reason(probe.CodeUnauthorized)
	case nopsclient.KindForbidden:
		return Reason(probe.CodeForbidden)
	case nopsclient.KindNotFound:
		return ReasonNotFound
	case nopsclient.KindNotOffered:
		return ReasonNotOffered
	case nopsclient.KindRateLimited:
		return ReasonRateLimited
	case nopsclient.KindServer:
		return ReasonServerError
	case nopsclient.KindUnreachable:
		return ReasonNoAnswer
	case nopsclient.KindTLS:
		return Reason(probe.CodeTLSFailure)
	case nopsclient.KindProtocol:
		return ReasonForeignAnswer
	case nopsclient.KindConflict, nopsclient.KindRefused:
		return Reason(probe.CodeHTTPStatus)
	}
	return Reason(probe.CodeUnknown)
}

// stageReason is why a stage did not pass. A report of an older probe may have failed stages without a code.
func stageReason(res probe.Result, s probe.StageResult) Reason {
	switch {
	case s.Outcome == probe.OK:
		return none
	case s.Outcome == probe.Failed && s.Code == probe.CodeNone:
		return Reason(probe.CodeUnknown)
	case s.Outcome == probe.Failed:
		return Reason(s.Code)
	}
	if f, failed := res.Failure(); failed && f.Stage != s.Stage {
		return ReasonEarlierFailure
	}
	return ReasonNotNeeded
}

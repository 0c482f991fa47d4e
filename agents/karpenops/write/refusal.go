package write

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Code says why nothing was written.
type Code string

// The codes of refusals.
const (
	ChangedSincePlan Code = "changed-since-plan" // the object is not what the plan was made for
	OwnedByOther     Code = "owned-by-other"     // a field belongs to a GitOps tool or a person
	Invariant        Code = "invariant"          // it is nothing that this agent ever does
	RejectedByServer Code = "rejected-by-server" // validation or admission said no, to the dry run
	Conflict         Code = "conflict"           // somebody wrote at the same time, each time
	Paused           Code = "paused"             // by somebody, or the action itself waits for something
	Frozen           Code = "frozen"             // a freeze window
	RateLimited      Code = "rate-limited"       // too many writes, one in flight, or a cool-down
	Fighting         Code = "fight"              // somebody else sets the field back whenever it is set
)

// Refusal is a write that was not made, and that nothing is wrong with the agent for.
type Refusal struct {
	Code   Code
	Object string // "NodePool/default"
	Path   string // of the field, where it is about one
	Why    string
	Owners []Owner // of OwnedByOther and Fighting
	Want   string  // of OwnedByOther and Fighting: a JSON merge patch with what is wanted, for whoever owns the field
}

func (r *Refusal) Error() string {
	if r.Path != "" {
		return fmt.Sprintf("%s %s: %s: %s", r.Object, r.Path, r.Code, r.Why)
	}
	return fmt.Sprintf("%s: %s: %s", r.Object, r.Code, r.Why)
}

// CodeOf is the code of a refusal, "" of anything else.
func CodeOf(err error) Code {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// Transient says whether a refusal is about the moment and nothing to write into the ledger.
func (r *Refusal) Transient() bool {
	return r.Code == Paused || r.Code == Frozen || r.Code == RateLimited || r.Code == Conflict
}

// waits says whether a refusal of a deletion may end by itself: nodes go, and so does whoever wrote at the same time.
func (r *Refusal) waits() bool {
	return r.Code == Invariant || r.Code == RateLimited || r.Code == Conflict
}

func refuse(code Code, object, path, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Object: object, Path: path, Why: fmt.Sprintf(format, args...)}
}

// refusalOf makes a refusal of an answer that is one.
func refusalOf(err error, object string) error {
	switch apiCode(err) {
	case http.StatusConflict:
		return refuse(Conflict, object, "", "%v", err)
	case http.StatusUnprocessableEntity, http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge:
		return refuse(RejectedByServer, object, "", "%s", told(err))
	case http.StatusNotFound:
		return refuse(ChangedSincePlan, object, "", "it is not there any more: %v", err)
	}
	return err
}

// told is what the server said, without the object that it repeats in the middle.
func told(err error) string {
	const head, tail = 160, 400
	s := err.Error()
	if len(s) > head+tail {
		s = strings.ToValidUTF8(s[:head], "") + " … " + strings.ToValidUTF8(s[len(s)-tail:], "")
	}
	return s
}

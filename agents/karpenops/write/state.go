package write

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// journalSchema is the version of Journal. An agent that finds a newer one writes nothing: it would not understand what is under way.
const journalSchema = 1

// Bounds of what is kept. The API server takes 1 MiB of a ConfigMap; what others keep in it counts, too.
const (
	maxState   = 900 << 10
	maxLedger  = 512 << 10
	maxValue   = 8 << 10 // of one value that is written down as it is; of larger ones there is the digest
	maxNames   = 200     // of NodeClaims in one list
	maxWritten = 300
	maxFights  = 100
)

// Journal is what a Writer has under way and has to remember. It is small: the ledger tells the story.
type Journal struct {
	SchemaVersion int       `json:"schema_version"`
	Intents       []Attempt `json:"intents,omitempty"` // written down before the write, gone with its record
	Watches       []Attempt `json:"watches,omitempty"` // written, and being held against what Karpenter makes of it
	// Written are the fields that have our value, by "KIND/NAME PATH", so that it is seen when somebody sets them back.
	Written  map[string]Written `json:"written,omitempty"`
	Reverts  map[string][]int64 `json:"reverts,omitempty"`  // unix seconds of the last hour's, by the same
	Fights   map[string]Fight   `json:"fights,omitempty"`   // fields that are left alone, by the same
	Cooldown map[string]int64   `json:"cooldown,omitempty"` // by pool: unix seconds until which nothing is tried
	Failures map[string]int     `json:"failures,omitempty"` // by pool: undone writes in a row, which the cool-down grows by
	Tokens   Tokens             `json:"tokens"`
	Last     map[string]int64   `json:"last,omitempty"` // by pool: unix seconds of the last write
	// Originals are the annotations of the same name once more, by "KIND/NAME": for node classes, which nobody would look through, and in case
	// somebody removes the annotation.
	Originals map[string]Originals `json:"originals,omitempty"`
}

// Attempt is a write with all that is needed to judge and undo it after a restart.
type Attempt struct {
	Record     nopsapi.KarpenterRecord `json:"record"` // as it will be in the ledger
	Kind       plan.ActionKind         `json:"kind"`
	ObjectKind string                  `json:"objectKind"`
	Path       string                  `json:"path"` // of the API
	Name       string                  `json:"name"`
	UID        string                  `json:"uid,omitempty"`
	Pool       string                  `json:"pool"`
	Base       string                  `json:"base,omitempty"`
	Changes    []Kept                  `json:"changes,omitempty"`
	Generation int64                   `json:"generation,omitempty"` // after the write
	At         time.Time               `json:"at"`
	Until      time.Time               `json:"until,omitzero"`
	Predicted  []string                `json:"predicted,omitempty"` // NodeClaims that may drift by it
	Before     []string                `json:"before,omitempty"`    // that drifted before it
	Ready      bool                    `json:"ready"`               // that the object was, before it
	Undo       bool                    `json:"undo,omitempty"`      // it takes something back
	Flip       string                  `json:"flip,omitempty"`      // of the action
	Told       string                  `json:"told,omitempty"`      // why it could not be undone yet, as it was said last
}

// Kept is a change in few bytes.
type Kept struct {
	Path      string          `json:"path"`
	Before    json.RawMessage `json:"before,omitempty"` // unless it is large
	BeforeSum string          `json:"beforeSum"`
	AfterSum  string          `json:"afterSum"`
	After     json.RawMessage `json:"after,omitempty"`
}

// Written is our value of a field.
type Written struct {
	Sum    string          `json:"sum"`
	Value  json.RawMessage `json:"value,omitempty"`
	Before string          `json:"before"` // the digest of what it replaced
	At     int64           `json:"at"`
	ID     string          `json:"id"` // of the record
	UID    string          `json:"uid"`
}

// Fight is a field that somebody else sets back whenever we set it.
type Fight struct {
	Since   time.Time       `json:"since"`
	Manager string          `json:"manager"`
	Want    json.RawMessage `json:"want,omitempty"`
}

// Tokens is the token bucket of the cluster, as a value.
type Tokens struct {
	Used float64 `json:"used"`
	At   int64   `json:"at"` // unix seconds
}

// Originals are what undo restores, by path.
type Originals map[string]Original

// Original is what a field was before we changed it, and the digest of what we made of it.
type Original struct {
	Value json.RawMessage `json:"value,omitempty"` // none: it was absent
	Ours  string          `json:"ours"`
}

// state is the ConfigMap, taken apart.
type state struct {
	exists  bool
	version string            // resourceVersion
	meta    map[string]string // annotations
	unset   []string          // annotations to take away
	sizes   map[string]int    // of the other keys
	status  string            // the agent's, as it was; see unlist
	told    string            // the same without what is gone; "": nothing is
	ledger  karpenstate.Ledger
	journal Journal
	// broken are keys that could not be read; what they held is lost, the annotations on the objects are not.
	broken []string
}

func (w *Writer) statePath() string {
	return "/api/v1/namespaces/" + w.Who.Namespace + "/configmaps/" + karpenstate.ConfigMap
}

// errNewer is a journal that a later version wrote.
var errNewer = errors.New("a newer version of the agent wrote the journal: install that version again, or revert by it")

func (w *Writer) readState(ctx context.Context) (*state, error) {
	o, err := w.get(ctx, w.statePath())
	st := &state{meta: map[string]string{}, sizes: map[string]int{}}
	if apiCode(err) == http.StatusNotFound {
		st.journal.SchemaVersion, st.ledger.SchemaVersion = journalSchema, 1
		return st, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	st.exists, st.version = true, text(o, "metadata", "resourceVersion")
	for k, v := range annotationsOf(o) {
		st.meta[k] = v
	}
	for _, part := range []string{"data", "binaryData"} {
		v, _ := at(o, part)
		data, _ := v.(map[string]any)
		for k, v := range data {
			s, _ := v.(string)
			var into any
			switch k {
			case karpenstate.KeyLedger:
				into = &st.ledger
			case karpenstate.KeyJournal:
				into = &st.journal
			case karpenstate.KeyStatus:
				st.status = s
				fallthrough
			default:
				st.sizes[k] = len(k) + len(s)
				continue
			}
			if err := json.Unmarshal([]byte(s), into); err != nil {
				st.broken = append(st.broken, k)
			}
		}
	}
	for _, k := range st.broken {
		if k == karpenstate.KeyJournal {
			st.journal = Journal{}
		} else {
			st.ledger = karpenstate.Ledger{}
		}
		w.Log.Error("what the state holds cannot be read and is begun anew; what undo needs is in the annotations of the objects, too", "key", k)
	}
	if st.journal.SchemaVersion > journalSchema {
		return nil, fmt.Errorf("ConfigMap %s/%s, key %s, schema %d: %w", w.Who.Namespace, karpenstate.ConfigMap, karpenstate.KeyJournal, st.journal.SchemaVersion, errNewer)
	}
	st.journal.SchemaVersion, st.ledger.SchemaVersion = journalSchema, 1
	return st, nil
}

// errUnchanged ends a mutation that has nothing to write.
var errUnchanged = errors.New("unchanged")

// mutate changes the state by reading it, changing it and writing it on the condition that nobody else did, as often as it takes.
func (w *Writer) mutate(ctx context.Context, change func(*state) error) error {
	const tries = 20
	for try := range tries {
		st, err := w.readState(ctx)
		if err != nil {
			return err
		}
		if err := change(st); errors.Is(err, errUnchanged) {
			return nil
		} else if err != nil {
			return err
		}
		err = w.writeState(ctx, st)
		if code := apiCode(err); code == http.StatusConflict || code == http.StatusNotFound {
			if err := agent.Sleep(ctx, time.Duration(try+1)*10*time.Millisecond); err != nil {
				return fmt.Errorf("writing the state: %w", err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("writing the state: %w", err)
		}
		return nil
	}
	return fmt.Errorf("writing the state: somebody else wrote ConfigMap %s/%s each of %d times", w.Who.Namespace, karpenstate.ConfigMap, tries)
}

func (w *Writer) writeState(ctx context.Context, st *state) error {
	data, err := st.encode(w.Now())
	if err != nil {
		return err
	}
	if st.told != "" {
		data[karpenstate.KeyStatus] = st.told
	}
	metadata := map[string]any{"labels": w.Who.Labels()}
	annotations := map[string]any{}
	for k, v := range st.meta {
		annotations[k] = v
	}
	for _, k := range st.unset {
		annotations[k] = nil
	}
	metadata["annotations"] = annotations
	body := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
	if !st.exists {
		metadata["name"] = karpenstate.ConfigMap
		if w.Owner != nil {
			metadata["ownerReferences"] = w.Owner.Reference()
		}
		_, err = w.call(ctx, http.MethodPost, "/api/v1/namespaces/"+w.Who.Namespace+"/configmaps", plainJSON, body, "fieldManager", w.Who.Name())
		return err
	}
	metadata["resourceVersion"] = st.version
	// A merge patch: what other parts of the agent keep in the same object stays as it is.
	_, err = w.call(ctx, http.MethodPatch, w.statePath(), mergePatch, body, "fieldManager", w.Who.Name())
	return err
}

// Keep writes a key of the ConfigMap beside what the Writer keeps there itself; nil removes it. Parts of the agent that own other keys use it:
// an update of the whole object would lose what this package wrote meanwhile.
func (w *Writer) Keep(ctx context.Context, data map[string]*string, binary map[string][]byte) error {
	for try := 0; ; try++ {
		st, err := w.readState(ctx)
		if err != nil && !errors.Is(err, errNewer) {
			return err
		}
		encoded := map[string]any{}
		for k, v := range binary {
			if encoded[k] = nil; v != nil {
				encoded[k] = base64.StdEncoding.EncodeToString(v)
			}
		}
		body := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"labels": w.Who.Labels()}, "data": data, "binaryData": encoded}
		verb, path, contentType := http.MethodPatch, w.statePath(), mergePatch
		if err == nil && !st.exists {
			metadata := map[string]any{"labels": w.Who.Labels(), "name": karpenstate.ConfigMap}
			if w.Owner != nil {
				metadata["ownerReferences"] = w.Owner.Reference()
			}
			verb, path, contentType, body["metadata"] = http.MethodPost, "/api/v1/namespaces/"+w.Who.Namespace+"/configmaps", plainJSON, metadata
			maps.DeleteFunc(data, func(_ string, v *string) bool { return v == nil })
			maps.DeleteFunc(encoded, func(_ string, v any) bool { return v == nil })
		}
		_, err = w.call(ctx, verb, path, contentType, body, "fieldManager", w.Who.Name())
		if code := apiCode(err); (code == http.StatusConflict || code == http.StatusNotFound) && try < 5 {
			continue
		}
		if err != nil {
			return fmt.Errorf("writing the state: %w", err)
		}
		return nil
	}
}

// encode drops what is old or too much, and gives the keys that are ours.
func (st *state) encode(now time.Time) (map[string]string, error) {
	st.journal.prune(now)
	journal, err := json.Marshal(st.journal)
	if err != nil {
		return nil, fmt.Errorf("encoding the journal: %w", err)
	}
	others := 0
	for _, n := range st.sizes {
		others += n
	}
	room := min(maxLedger, maxState-others-len(journal))
	var kept []json.RawMessage
	used := 64
	for _, e := range slices.Backward(st.ledger.Entries) {
		data, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("encoding record %s: %w", e.ID, err)
		}
		if len(kept) == karpenstate.MaxEntries || used+len(data)+1 > room {
			break
		}
		used += len(data) + 1
		kept = append(kept, data)
	}
	slices.Reverse(kept)
	ledger, err := json.Marshal(struct {
		SchemaVersion int               `json:"schema_version"`
		Entries       []json.RawMessage `json:"entries"`
	}{1, append([]json.RawMessage{}, kept...)})
	if err != nil {
		return nil, fmt.Errorf("encoding the ledger: %w", err)
	}
	return map[string]string{karpenstate.KeyLedger: string(ledger), karpenstate.KeyJournal: string(journal)}, nil
}

// add appends a record, or replaces the one of the same ID, and says whether that made a difference.
func (st *state) add(r nopsapi.KarpenterRecord) bool {
	for i := range slices.Backward(st.ledger.Entries) {
		if e := st.ledger.Entries[i]; e.ID == r.ID {
			if equal(e, r) {
				return false
			}
			st.ledger.Entries[i] = r
			return true
		}
	}
	st.ledger.Entries = append(st.ledger.Entries, r)
	return true
}

// unlist takes a NodePool that is gone out of the status, and what was planned for it. Whoever looks before the agent does, which may be switched off, would
// take it for one that is there.
func (st *state) unlist(name string) {
	var s karpenstate.Status
	if st.status == "" || json.Unmarshal([]byte(st.status), &s) != nil || s.SchemaVersion != 1 {
		return // the agent's next one will be right
	}
	before := len(s.Pools) + len(s.Pending)
	s.Pools = slices.DeleteFunc(s.Pools, func(p karpenstate.Pool) bool { return p.Owned && p.Name == name })
	s.Pending = slices.DeleteFunc(s.Pending, func(p karpenstate.Pending) bool { return p.Object == refOf(kindPool, name) })
	if len(s.Pools)+len(s.Pending) == before {
		return
	}
	if data, err := json.MarshalIndent(s, "", " "); err == nil {
		st.told = string(data)
	}
}

const hour = int64(time.Hour / time.Second)

func (j *Journal) prune(now time.Time) {
	unix := now.Unix()
	for k, times := range j.Reverts {
		times = slices.DeleteFunc(slices.Clone(times), func(t int64) bool { return unix-t >= hour })
		if j.Reverts[k] = times; len(times) == 0 {
			delete(j.Reverts, k)
		}
	}
	maps.DeleteFunc(j.Cooldown, func(_ string, until int64) bool { return until <= unix })
	maps.DeleteFunc(j.Last, func(_ string, t int64) bool { return unix-t > 24*hour })
	oldest(j.Written, maxWritten, func(w Written) int64 { return w.At })
	oldest(j.Fights, maxFights, func(f Fight) int64 { return f.Since.Unix() })
}

// oldest drops the oldest entries beyond a bound.
func oldest[V any](m map[string]V, bound int, at func(V) int64) {
	if len(m) <= bound {
		return
	}
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if d := at(m[a]) - at(m[b]); d != 0 {
			return int(max(-1, min(1, d)))
		}
		return len(a) - len(b)
	})
	for _, k := range keys[:len(keys)-bound] {
		delete(m, k)
	}
}

// fieldKey names a field in the journal.
func fieldKey(kind, name, path string) string { return refOf(kind, name) + " " + path }

// keep makes a change small.
func keep(c plan.Change) Kept {
	k := Kept{Path: c.Path, BeforeSum: sum(c.Before), AfterSum: sum(c.After)}
	if data := canonical(c.Before); c.Before != nil && len(data) <= maxValue {
		k.Before = data
	}
	if data := canonical(c.After); c.After != nil && len(data) <= maxValue {
		k.After = data
	}
	return k
}

// small is a value as a record carries it.
func small(v any) any {
	if data := canonical(v); len(data) > maxValue {
		return map[string]any{"left_out": true, "bytes": len(data), "sha256_12": sum(v)}
	}
	return v
}

func mapOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

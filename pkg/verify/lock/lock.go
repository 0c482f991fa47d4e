// Package lock is nopsctl.lock.yaml: what an installation was pinned to, on what basis, and signed when. The next one is held
// against it, so that nobody serves an old version with an old and good signature as a new one.
//
// It is light, so that the installer can keep it in the cluster.
package lock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// APIVersion and Kind are what the document says it is; FileName is what it is called.
const (
	APIVersion = "nopsctl.io/v1"
	Kind       = "ImageLock"
	FileName   = "nopsctl.lock.yaml"
)

// maxDocument bounds a lock: a ConfigMap can hold no more either.
const maxDocument = 1 << 20

// Lock is what was admitted together.
type Lock struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Written    time.Time `json:"written"`
	Policy     string    `json:"policy,omitempty"` // hash of the policy; empty where none was applied
	Chart      Chart     `json:"chart,omitzero"`
	Images     []Entry   `json:"images"`
}

// Chart is the chart that the images come from.
type Chart struct {
	Name     string `json:"name,omitempty"`
	Version  string `json:"version,omitempty"`
	Artifact *Entry `json:"artifact,omitempty"` // where it comes from a registry
}

// Entry is one admitted reference.
type Entry struct {
	Name      string    `json:"name"`      // canonical, without tag: what policies and the downgrade guard know it by
	Reference string    `json:"reference"` // as it was asked for, without the digest it was resolved to
	Digest    string    `json:"digest"`
	MediaType string    `json:"mediaType,omitempty"`
	Basis     string    `json:"basis"` // of pkg/verify/ref
	Outcome   string    `json:"outcome,omitempty"`
	Method    string    `json:"method,omitempty"`
	Identity  string    `json:"identity,omitempty"`
	SignedAt  time.Time `json:"signedAt,omitzero"`
	Note      string    `json:"note,omitempty"`
}

// String names an entry for people.
func (e Entry) String() string {
	r, err := ref.Parse(e.Reference)
	if err != nil || r.Tag == "" {
		return e.Name
	}
	return e.Name + ":" + r.Tag
}

// key is what two locks have in common: the canonical name and the tag, whatever mirror it came from.
func (e Entry) key() string { return e.String() }

// Made is what a lock says beside images.
type Made struct {
	Written      time.Time
	Policy       string // hash
	ChartName    string
	ChartVersion string
	Chart        ref.Admitted // zero for the embedded chart
}

// New makes a lock of what was admitted. What is not admitted cannot be locked, and is an error.
func New(images []ref.Admitted, m Made) (Lock, error) {
	l := Lock{APIVersion: APIVersion, Kind: Kind, Written: m.Written.UTC(), Policy: m.Policy, Chart: Chart{Name: m.ChartName, Version: m.ChartVersion}}
	if m.Chart.Valid() {
		e := entry(m.Chart)
		l.Chart.Artifact = &e
	}
	for _, a := range images {
		if !a.Valid() {
			return Lock{}, errors.New("lock: a reference that was not admitted")
		}
		l.Images = append(l.Images, entry(a))
	}
	l.sort()
	if err := l.check(); err != nil {
		return Lock{}, err
	}
	return l, nil
}

func entry(a ref.Admitted) Entry {
	f := a.Facts()
	e := Entry{
		Name: f.Canonical.Name(), Reference: f.Given.String(), Digest: f.Digest, MediaType: f.MediaType, Basis: string(f.Basis), Outcome: f.Outcome,
		Method: f.Method, Identity: f.Identity, Note: f.Note,
	}
	if !f.SignedAt.IsZero() {
		e.SignedAt = f.SignedAt.UTC()
	}
	return e
}

// sort puts entries in order, each once.
func (l *Lock) sort() {
	sort.SliceStable(l.Images, func(i, j int) bool {
		a, b := l.Images[i], l.Images[j]
		return a.Name < b.Name || a.Name == b.Name && a.Reference < b.Reference
	})
	var once []Entry
	for i, e := range l.Images {
		if i == 0 || !same(e, l.Images[i-1]) {
			once = append(once, e)
		}
	}
	l.Images = once
}

func same(a, b Entry) bool {
	at := a.SignedAt.Equal(b.SignedAt)
	a.SignedAt, b.SignedAt = time.Time{}, time.Time{}
	return at && a == b
}

// Write gives the document. The same lock gives the same bytes.
func (l Lock) Write() ([]byte, error) {
	l.Images = append([]Entry(nil), l.Images...)
	l.sort()
	if err := l.check(); err != nil {
		return nil, err
	}
	data, err := yaml.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return append([]byte("# Written by nopsctl: what was installed, to the byte. nopsctl install --lock FILE installs exactly this.\n"), data...), nil
}

// Error is what is wrong with a document.
type Error struct{ What string }

// Error implements error.
func (e *Error) Error() string { return "lock: " + e.What }

// Hint says what to do.
func (e *Error) Hint() string {
	return "locks are written by nopsctl: take one that nobody has edited, or leave it out to make a new one"
}

var separator = regexp.MustCompile(`(?m)^(?:---|\.\.\.)(?:[ \t\r]|$)`)

// Read reads a document, strictly: unknown fields, fields that are there twice and entries that contradict each other are
// errors, as a lock that is half understood locks nothing.
func Read(data []byte) (l Lock, err error) {
	defer func() { // the parser's own mistakes are no reason to end a process
		if p := recover(); p != nil {
			l, err = Lock{}, &Error{"the YAML cannot be read"}
		}
	}()
	if len(data) > maxDocument {
		return Lock{}, &Error{fmt.Sprintf("it has %d bytes, of at most %d", len(data), maxDocument)}
	}
	if at := separator.FindAllIndex(data, 2); len(at) > 1 || len(at) == 1 && len(bytes.TrimSpace(uncommented(data[:at[0][0]]))) > 0 {
		return Lock{}, &Error{"there is more than one document"}
	}
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return Lock{}, &Error{"not YAML: " + strings.Join(strings.Fields(err.Error()), " ")}
	}
	if err := exact(asJSON); err != nil {
		return Lock{}, err
	}
	decoder := json.NewDecoder(bytes.NewReader(asJSON))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&l); err != nil {
		return Lock{}, &Error{err.Error()}
	}
	if err := l.check(); err != nil {
		return Lock{}, err
	}
	l.utc()
	l.sort()
	return l, nil
}

func uncommented(data []byte) []byte {
	var rest []byte
	for _, line := range bytes.Split(data, []byte("\n")) {
		if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 && trimmed[0] != '#' {
			rest = append(rest, trimmed...)
		}
	}
	return rest
}

// exact refuses fields in other spellings: encoding/json takes Images for images, and of two takes the last.
func exact(data []byte) error {
	var document map[string]json.RawMessage
	if err := json.Unmarshal(data, &document); err != nil || document == nil {
		return &Error{"it is no " + Kind}
	}
	entry := []string{"name", "reference", "digest", "mediaType", "basis", "outcome", "method", "identity", "signedAt", "note"}
	if err := only(document, "", "apiVersion", "kind", "written", "policy", "chart", "images"); err != nil {
		return err
	}
	var chart map[string]json.RawMessage
	if raw, ok := document["chart"]; ok {
		if err := json.Unmarshal(raw, &chart); err != nil {
			return &Error{"chart is no object"}
		}
		if err := only(chart, "chart.", "name", "version", "artifact"); err != nil {
			return err
		}
	}
	var entries []map[string]json.RawMessage
	if raw, ok := document["images"]; ok {
		if err := json.Unmarshal(raw, &entries); err != nil {
			return &Error{"images is no list of objects"}
		}
	}
	if raw, ok := chart["artifact"]; ok {
		var one map[string]json.RawMessage
		if err := json.Unmarshal(raw, &one); err != nil {
			return &Error{"chart.artifact is no object"}
		}
		entries = append(entries, one)
	}
	for _, e := range entries {
		if err := only(e, "images[].", entry...); err != nil {
			return err
		}
	}
	return nil
}

func only(m map[string]json.RawMessage, at string, known ...string) error {
	var unknown []string
next:
	for name := range m {
		for _, k := range known {
			if k == name {
				continue next
			}
		}
		unknown = append(unknown, fmt.Sprintf("%.100q", at+name))
	}
	if len(unknown) == 0 {
		return nil
	}
	sort.Strings(unknown)
	return &Error{"unknown field " + unknown[0]}
}

func (l *Lock) utc() {
	l.Written = l.Written.UTC()
	for i := range l.Images {
		l.Images[i].SignedAt = l.Images[i].SignedAt.UTC()
	}
	if l.Chart.Artifact != nil {
		l.Chart.Artifact.SignedAt = l.Chart.Artifact.SignedAt.UTC()
	}
}

// check says whether a lock contradicts itself.
func (l Lock) check() error {
	if l.APIVersion != APIVersion || l.Kind != Kind {
		return &Error{fmt.Sprintf("it is a %.60q of %.60q, and not a %s of %s", l.Kind, l.APIVersion, Kind, APIVersion)}
	}
	seen := map[string]string{}
	for _, e := range l.Images {
		if err := e.check(); err != nil {
			return err
		}
		if digest, ok := seen[e.Reference]; ok && digest != e.Digest {
			return &Error{fmt.Sprintf("%s is there with two digests", e.Reference)}
		}
		seen[e.Reference] = e.Digest
	}
	if l.Chart.Artifact != nil {
		return l.Chart.Artifact.check()
	}
	return nil
}

func (e Entry) check() error {
	wrong := func(format string, args ...any) error {
		return &Error{fmt.Sprintf("image %.200q: ", e.Reference) + fmt.Sprintf(format, args...)}
	}
	r, err := ref.Parse(e.Reference)
	if err != nil {
		return wrong("it is no reference")
	}
	name, err := ref.Parse(e.Name)
	switch {
	case err != nil || name.Name() != e.Name:
		return wrong("%.200q is no canonical name", e.Name)
	case !ref.IsDigest(e.Digest):
		return wrong("%.100q is no digest", e.Digest)
	case r.Digest != "" && r.Digest != e.Digest:
		return wrong("it was asked for by another digest than %s", e.Digest)
	}
	switch ref.Basis(e.Basis) {
	case ref.ByPolicy, ref.ByException, ref.ByWarning:
	default:
		return wrong("%.60q is no basis", e.Basis)
	}
	known := e.Outcome == ""
	for _, o := range verdict.Outcomes() {
		known = known || string(o) == e.Outcome
	}
	switch {
	case !known:
		return wrong("%.60q is no outcome", e.Outcome)
	case (ref.Basis(e.Basis) == ref.ByPolicy) != verdict.Outcome(e.Outcome).OK():
		return wrong("basis %s with outcome %q", e.Basis, e.Outcome)
	}
	return nil
}

package agent

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A Note is an event about to be written.
type Note struct {
	Topic       string // what it is about, finer than the object: an agent's own workload stands for several things
	Kind, Name  string // of the object
	UID         types.UID
	Warning     bool
	Reason, Why string
}

// Event is the note as an object.
func (n Note) Event(who Identity, now time.Time) *corev1.Event {
	kind := corev1.EventTypeNormal
	if n.Warning {
		kind = corev1.EventTypeWarning
	}
	const maxMessage = 1024 // the API server's limit
	why := n.Why
	if len(why) > maxMessage {
		why = strings.ToValidUTF8(why[:maxMessage-3], "") + "…"
	}
	at := metav1.NewTime(now)
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: who.Name() + "-", Namespace: who.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: apiVersion(n.Kind), Kind: n.Kind, Namespace: who.Namespace, Name: n.Name, UID: n.UID},
		Reason:         n.Reason, Message: why, Type: kind, Count: 1, FirstTimestamp: at, LastTimestamp: at,
		Source:              corev1.EventSource{Component: who.Name()},
		ReportingController: "nops.io/" + who.Component, ReportingInstance: who.Name() + " " + who.Version,
	}
}

// Sparing lets a note pass unless it repeats what was said last about the same thing, and not more than a few in a row.
type Sparing struct {
	last   map[string]string // topic → what was said
	bucket Bucket
}

// NewSparing lets capacity notes pass at once, and one more after each while.
func NewSparing(capacity int, every time.Duration) *Sparing {
	return &Sparing{last: map[string]string{}, bucket: Bucket{Capacity: capacity, Every: every}}
}

// Allow says whether the note is worth writing.
func (s *Sparing) Allow(n Note, now time.Time) bool {
	said := n.Reason + ": " + n.Why
	if s.last[n.Topic] == said || !s.bucket.Take(now) {
		return false
	}
	s.last[n.Topic] = said
	return true
}

// Bucket is a token bucket that starts full.
type Bucket struct {
	Capacity int
	Every    time.Duration // one token
	used     float64
	at       time.Time
}

// Take takes a token if there is one.
func (b *Bucket) Take(now time.Time) bool {
	if !b.at.IsZero() {
		b.used = max(0, b.used-float64(now.Sub(b.at))/float64(b.Every))
	}
	b.at = now
	if b.used+1 > float64(b.Capacity) {
		return false
	}
	b.used++
	return true
}

// Wait is how long until there is a token.
func (b *Bucket) Wait(now time.Time) time.Duration {
	used := b.used
	if !b.at.IsZero() {
		used = max(0, used-float64(now.Sub(b.at))/float64(b.Every))
	}
	if used+1 <= float64(b.Capacity) {
		return 0
	}
	return time.Duration((used + 1 - float64(b.Capacity)) * float64(b.Every))
}

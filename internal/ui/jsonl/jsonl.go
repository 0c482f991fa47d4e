// Package jsonl is the face for programs: one event, one line of JSON.
//
// A line is the event's own fields behind three of the stream's: schema_version, time and event. docs/events.md documents
// them; fields may be added within a schema version, never removed or changed.
package jsonl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/internal/ui"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// SchemaVersion is the version of the lines. 1 is the first.
const SchemaVersion = 1

// Face writes events as lines of JSON.
type Face struct {
	mu     sync.Mutex
	w      io.Writer
	now    func() time.Time
	closed bool
}

var _ ui.Face = (*Face)(nil)

// New returns a Face. A nil clock is time.Now.
func New(w io.Writer, now func() time.Time) *Face {
	if now == nil {
		now = time.Now
	}
	return &Face{w: w, now: now}
}

// Observe implements ui.Face.
func (f *Face) Observe(e event.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	if line, err := Line(f.now(), e); err == nil {
		_, _ = f.w.Write(line)
	}
}

// Close implements ui.Face.
func (f *Face) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// Line is one event as it is written, line break included.
func Line(at time.Time, e event.Event) ([]byte, error) {
	head, err := json.Marshal(struct {
		SchemaVersion int        `json:"schema_version"`
		Time          time.Time  `json:"time"`
		Event         event.Kind `json:"event"`
	}{SchemaVersion, at.UTC().Truncate(time.Millisecond), e.Kind()})
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", e.Kind(), err)
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("event %s: %w", e.Kind(), err)
	}
	line := head
	if fields := bytes.TrimSpace(body.Bytes()); len(fields) > len("{}") {
		line = append(append(head[:len(head)-1], ','), fields[1:]...)
	}
	return append(line, '\n'), nil
}

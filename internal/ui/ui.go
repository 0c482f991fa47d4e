// Package ui is what the faces of nopsctl have in common: plain lines (plain) and JSON lines (jsonl) show the same events.
package ui

import "github.com/nopsctl/nopsctl/pkg/event"

// A Face shows the events of one command as they come. It is safe for concurrent use.
type Face interface {
	Observe(e event.Event)
	// Close shows what is still held back. Events after Close are dropped.
	Close()
}

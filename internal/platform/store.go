package platform

import (
	"context"
	"errors"
	"sort"
	"sync"
)

// Kind is a drawer of the store.
type Kind string

// The drawers.
const (
	kindCustomer  Kind = "customer"
	kindKey       Kind = "key"
	kindCluster   Kind = "cluster"
	kindHeartbeat Kind = "heartbeat" // by time of observation
	kindBeat      Kind = "beat"      // by boot and sequence number: the ID of the heartbeat
	kindState     Kind = "state"
	kindWarning   Kind = "warning"
	kindTest      Kind = "test"
	kindReplay    Kind = "replay"
	kindFacts     Kind = "facts"     // markets and commitments, as they were published
	kindInventory Kind = "inventory" // what karpenops told last
	kindRecord    Kind = "record"    // by time
	kindRecordID  Kind = "record-id" // by the ID that the agent gave it: the ID of the record
	kindPoll      Kind = "poll"      // when karpenops was heard of last
	kindScenario  Kind = "scenario"  // that was begun, by customer

	kindWorkloads       Kind = "workloads"           // that the agent asked recommendations for last
	kindRecommendations Kind = "recommendations"     // that are served
	kindOutcome         Kind = "outcome"             // by time
	kindOutcomeID       Kind = "outcome-id"          // by the ID that the agent gave it: the ID of the outcome
	kindAnalysis        Kind = "analysis"            // what is to be analysed, and how that went
	kindSpoiled         Kind = "spoiled-rightsizing" // how recommendations are spoiled, by customer
)

// ErrNoDocument says that a store has nothing under an ID.
var ErrNoDocument = errors.New("no such document")

// A Document is JSON under an ID, below a parent.
type Document struct {
	ID   string
	Data []byte
}

// A Change writes a document, or deletes it when it has no data.
type Change struct {
	Kind   Kind
	Parent string
	Document
}

// Store keeps documents. Implementations are safe for concurrent use.
type Store interface {
	// Get returns ErrNoDocument when there is none.
	Get(ctx context.Context, kind Kind, id string) ([]byte, error)
	// List returns the documents below a parent whose ID is greater than after, ordered by ID: at most limit of them, all
	// when limit is 0. An empty parent means all.
	List(ctx context.Context, kind Kind, parent, after string, limit int) ([]Document, error)
	// Write makes all changes or none.
	Write(ctx context.Context, changes ...Change) error
}

// Memory is a Store that forgets. Its zero value is ready.
type Memory struct {
	mu   sync.Mutex
	docs map[Kind]map[string]entry
}

type entry struct {
	parent string
	data   []byte
}

var _ Store = (*Memory)(nil)

// Get implements Store.
func (m *Memory) Get(_ context.Context, kind Kind, id string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.docs[kind][id]
	if !ok {
		return nil, ErrNoDocument
	}
	return append([]byte(nil), e.data...), nil
}

// List implements Store.
func (m *Memory) List(_ context.Context, kind Kind, parent, after string, limit int) ([]Document, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []Document
	for id, e := range m.docs[kind] {
		if (parent == "" || e.parent == parent) && id > after {
			found = append(found, Document{id, append([]byte(nil), e.data...)})
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].ID < found[j].ID })
	if limit > 0 && len(found) > limit {
		found = found[:limit]
	}
	return found, nil
}

// Write implements Store.
func (m *Memory) Write(_ context.Context, changes ...Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.docs == nil {
		m.docs = map[Kind]map[string]entry{}
	}
	for _, c := range changes {
		if m.docs[c.Kind] == nil {
			m.docs[c.Kind] = map[string]entry{}
		}
		if len(c.Data) == 0 {
			delete(m.docs[c.Kind], c.ID)
			continue
		}
		m.docs[c.Kind][c.ID] = entry{c.Parent, append([]byte(nil), c.Data...)}
	}
	return nil
}

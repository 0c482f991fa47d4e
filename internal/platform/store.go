package platform

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sort"
	"sync"

	_ "modernc.org/sqlite" // the driver "sqlite", in pure Go
)

// Kind is a drawer of the store.
type Kind string

// The drawers.
const (
	kindCustomer  Kind = "customer"
	kindKey       Kind = "key"
	kindCluster   Kind = "cluster"
	kindHeartbeat Kind = "heartbeat"
	kindState     Kind = "state"
	kindWarning   Kind = "warning"
	kindTest      Kind = "test"
	kindReplay    Kind = "replay"
)

// ErrNoDocument says that a store has nothing under an ID.
var ErrNoDocument = errors.New("no such document")

// A Document is JSON under an ID, below a parent.
type Document struct {
	ID   string
	Data []byte
}

// Store keeps documents. Implementations are safe for concurrent use and write a document whole or not at all.
type Store interface {
	// Get returns ErrNoDocument when there is none.
	Get(ctx context.Context, kind Kind, id string) ([]byte, error)
	Put(ctx context.Context, kind Kind, parent string, doc Document) error
	// List returns the documents below a parent, ordered by ID; an empty parent means all.
	List(ctx context.Context, kind Kind, parent string) ([]Document, error)
	Delete(ctx context.Context, kind Kind, id string) error
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

// Put implements Store.
func (m *Memory) Put(_ context.Context, kind Kind, parent string, doc Document) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.docs == nil {
		m.docs = map[Kind]map[string]entry{}
	}
	if m.docs[kind] == nil {
		m.docs[kind] = map[string]entry{}
	}
	m.docs[kind][doc.ID] = entry{parent, append([]byte(nil), doc.Data...)}
	return nil
}

// List implements Store.
func (m *Memory) List(_ context.Context, kind Kind, parent string) ([]Document, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []Document
	for id, e := range m.docs[kind] {
		if parent == "" || e.parent == parent {
			found = append(found, Document{id, append([]byte(nil), e.data...)})
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].ID < found[j].ID })
	return found, nil
}

// Delete implements Store.
func (m *Memory) Delete(_ context.Context, kind Kind, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.docs[kind], id)
	return nil
}

// SQLite is a Store in a file.
type SQLite struct{ db *sql.DB }

var _ Store = (*SQLite)(nil)

// OpenSQLite opens or makes the file.
func OpenSQLite(ctx context.Context, path string) (*SQLite, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(NORMAL)")
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", path, err)
	}
	db.SetMaxOpenConns(1) // one writer at a time is SQLite's nature
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS documents (kind TEXT NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID`,
		`CREATE INDEX IF NOT EXISTS documents_by_parent ON documents (kind, parent, id)`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			_ = db.Close()
			return nil, fmt.Errorf("open the store %s: %w", path, err)
		}
	}
	return &SQLite{db}, nil
}

// Close closes the file.
func (s *SQLite) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}

// Get implements Store.
func (s *SQLite) Get(ctx context.Context, kind Kind, id string) ([]byte, error) {
	var data []byte
	err := s.db.QueryRowContext(ctx, `SELECT data FROM documents WHERE kind = ? AND id = ?`, string(kind), id).Scan(&data)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, ErrNoDocument
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", kind, err)
	}
	return data, nil
}

// Put implements Store.
func (s *SQLite) Put(ctx context.Context, kind Kind, parent string, doc Document) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO documents (kind, id, parent, data) VALUES (?, ?, ?, ?)
		ON CONFLICT (kind, id) DO UPDATE SET parent = excluded.parent, data = excluded.data`, string(kind), doc.ID, parent, doc.Data)
	if err != nil {
		return fmt.Errorf("write %s: %w", kind, err)
	}
	return nil
}

// List implements Store.
func (s *SQLite) List(ctx context.Context, kind Kind, parent string) ([]Document, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, data FROM documents WHERE kind = ?1 AND (?2 = '' OR parent = ?2) ORDER BY id`, string(kind), parent)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, err)
	}
	defer rows.Close()
	var found []Document
	for rows.Next() {
		var d Document
		if err := rows.Scan(&d.ID, &d.Data); err != nil {
			return nil, fmt.Errorf("list %s: %w", kind, err)
		}
		found = append(found, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, err)
	}
	return found, nil
}

// Delete implements Store.
func (s *SQLite) Delete(ctx context.Context, kind Kind, id string) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM documents WHERE kind = ? AND id = ?`, string(kind), id); err != nil {
		return fmt.Errorf("delete %s: %w", kind, err)
	}
	return nil
}

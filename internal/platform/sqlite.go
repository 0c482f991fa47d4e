package platform

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // the driver "sqlite", in pure Go
)

// layout is the version of the tables, kept in the file. History:
//
//	1: documents
const layout = 1

// SQLite is a Store in a file.
type SQLite struct{ db *sql.DB }

var _ Store = (*SQLite)(nil)

// OpenSQLite opens or makes the file. One process at a time may use it.
func OpenSQLite(ctx context.Context, path string) (*SQLite, error) {
	// With WAL and NORMAL a killed process loses nothing; a machine that loses power may lose the last writes, never the file.
	u := url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(NORMAL)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", path, err)
	}
	db.SetMaxOpenConns(1) // one writer at a time is SQLite's nature
	if err := prepare(ctx, db); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open the store %s: %w", path, err)
	}
	return &SQLite{db}, nil
}

// prepare makes the tables of a new file and refuses a file of another layout.
func prepare(ctx context.Context, db *sql.DB) error {
	var version, tables int
	if err := db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table'`).Scan(&tables); err != nil {
		return err
	}
	if version != layout && (version != 0 || tables != 0) {
		return fmt.Errorf("it has layout %d, this program knows %d: remove the file to start anew", version, layout)
	}
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS documents (kind TEXT NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID`,
		`CREATE INDEX IF NOT EXISTS documents_by_parent ON documents (kind, parent, id)`,
		fmt.Sprintf(`PRAGMA user_version = %d`, layout),
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
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

// List implements Store.
func (s *SQLite) List(ctx context.Context, kind Kind, parent, after string, limit int) ([]Document, error) {
	if limit == 0 {
		limit = -1 // SQLite's word for all
	}
	query, args := `SELECT id, data FROM documents WHERE kind = ? AND parent = ? AND id > ? ORDER BY id LIMIT ?`, []any{string(kind), parent, after, limit}
	if parent == "" {
		query, args = `SELECT id, data FROM documents WHERE kind = ? AND id > ? ORDER BY id LIMIT ?`, []any{string(kind), after, limit}
	}
	rows, err := s.db.QueryContext(ctx, query, args...)
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

// Write implements Store.
func (s *SQLite) Write(ctx context.Context, changes ...Change) error {
	if len(changes) == 0 {
		return nil
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	for _, c := range changes {
		if len(c.Data) == 0 {
			_, err = tx.ExecContext(ctx, `DELETE FROM documents WHERE kind = ? AND id = ?`, string(c.Kind), c.ID)
		} else {
			_, err = tx.ExecContext(ctx, `INSERT INTO documents (kind, id, parent, data) VALUES (?, ?, ?, ?)
				ON CONFLICT (kind, id) DO UPDATE SET parent = excluded.parent, data = excluded.data`, string(c.Kind), c.ID, c.Parent, c.Data)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", c.Kind, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

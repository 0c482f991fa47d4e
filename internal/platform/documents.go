package platform

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
)

// read gets a document of the store.
func read[T any](ctx context.Context, store Store, kind Kind, id string) (T, error) {
	var doc T
	data, err := store.Get(ctx, kind, id)
	if err != nil {
		return doc, err //nolint:wrapcheck // stores name what they read
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return doc, fmt.Errorf("stored %s %s: %w", kind, id, err)
	}
	return doc, nil
}

// list gets all documents below a parent.
func list[T any](ctx context.Context, store Store, kind Kind, parent string) ([]T, error) {
	docs, err := store.List(ctx, kind, parent, "", 0)
	if err != nil {
		return nil, err //nolint:wrapcheck // stores name what they read
	}
	all := make([]T, len(docs))
	for i, d := range docs {
		if err := json.Unmarshal(d.Data, &all[i]); err != nil {
			return nil, fmt.Errorf("stored %s %s: %w", kind, d.ID, err)
		}
	}
	return all, nil
}

// document is the change that writes one.
func document(kind Kind, parent, id string, doc any) (Change, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return Change{}, fmt.Errorf("store %s: %w", kind, err)
	}
	return Change{kind, parent, Document{id, data}}, nil
}

// writes is a result with documents.
func (r result) writes(kind Kind, parent, id string, doc any) (result, error) {
	change, err := document(kind, parent, id, doc)
	r.changes = append(r.changes, change)
	return r, err
}

func deletes(kind Kind, id string) Change { return Change{Kind: kind, Document: Document{ID: id}} }

// message is a message of the wire with whatever its sender put in it: what this version does not know is stored and
// returned with the rest.
type message map[string]json.RawMessage

// with is the message with a field set.
func (m message) with(field string, value any) (message, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("field %s: %w", field, err)
	}
	m = maps.Clone(m)
	m[field] = data
	return m, nil
}

func randomHex(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return hex.EncodeToString(raw)
}

package platform

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
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

// maxPage bounds a page in bytes, so that an answer stays below nopsapi.MaxBody.
const maxPage = nopsapi.MaxBody / 2

// page reads documents of a cluster whose IDs begin with a moment, as the query asks: since, after, limit.
func (s *Server) page(ctx context.Context, r *request, kind Kind, most int) (docs []Document, next string, err error) {
	query := r.URL.Query()
	after, limit := "", most
	if text := query.Get("since"); text != "" {
		since, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, "", refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "since %q: expected a time such as 2026-01-02T15:04:05Z", text)
		}
		after = moment(since)
	}
	if text := query.Get("after"); text != "" {
		last, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return nil, "", refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "after %q: expected what an answer held as next", text)
		}
		after = max(after, string(last))
	}
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > most {
			return nil, "", refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "limit %q: expected a number from 1 to %d", text, most)
		}
	}
	docs, err = s.store().List(ctx, kind, r.home, r.home+"|"+after, limit+1)
	if err != nil {
		return nil, "", err //nolint:wrapcheck // stores name what they read
	}
	size := 0
	for i, d := range docs {
		if size += len(d.Data); size > maxPage && i > 0 {
			limit = min(limit, i)
			break
		}
	}
	if len(docs) > limit {
		docs = docs[:limit]
		next = base64.RawURLEncoding.EncodeToString([]byte(docs[limit-1].ID[len(r.home)+1:]))
	}
	return docs, next, nil
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

package platform

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// replay is the stored answer to a write with an idempotency key.
type replay struct {
	Request string          `json:"request"` // digest of method, path and body
	Status  int             `json:"status"`
	Answer  json.RawMessage `json:"answer,omitempty"`
	// Sealed is an answer that holds a secret, encrypted with what only its caller has: its own key and the idempotency key.
	// Who reads the store learns no secret from it, as they learn none from the hashes of the keys.
	Sealed []byte    `json:"sealed,omitempty"`
	At     time.Time `json:"at"`
}

// identified says whether a write is one of those with an idempotency key. A heartbeat is not: boot and sequence number
// identify it, and each try to send it has another sent_at.
func identified(r *request) (string, bool) {
	given := r.Header.Get(nopsapi.IdempotencyHeader)
	return given, given != "" && !strings.HasSuffix(r.URL.Path, "/heartbeats")
}

// replayID belongs to one API key: another caller with the same idempotency key means another write.
func replayID(c caller, given string) string {
	sum := sha256.Sum256([]byte(c.key.ID + "\n" + given))
	return c.customer.ID + "|" + hex.EncodeToString(sum[:])
}

func digest(r *request) string {
	sum := sha256.Sum256([]byte(r.Method + " " + r.URL.EscapedPath() + "\n" + string(r.body)))
	return hex.EncodeToString(sum[:])
}

// replayed is the answer of the same write before, nil when there was none.
func (s *Server) replayed(ctx context.Context, c caller, r *request) (*result, error) {
	given, ok := identified(r)
	if !ok {
		return nil, nil
	}
	if len(given) > nopsapi.MaxIdempotencyKey {
		return nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "the idempotency key has %d bytes, at most %d are allowed", len(given), nopsapi.MaxIdempotencyKey)
	}
	old, err := read[replay](ctx, s.store(), kindReplay, replayID(c, given))
	switch {
	case errors.Is(err, ErrNoDocument), err == nil && s.now().Sub(old.At) > nopsapi.ReplayLifetime:
		return nil, nil
	case err != nil:
		return nil, err
	case old.Request != digest(r):
		return nil, refuse(http.StatusConflict, nopsapi.CodeConflict, "idempotency key %q was used for another request", given)
	case old.Sealed != nil:
		if old.Answer, err = open(old.Sealed, c.secret, given); err != nil {
			return nil, nil //nolint:nilerr // the caller's key was rotated since: nobody can read that answer any more
		}
	}
	return &result{status: old.Status, answer: old.Answer}, nil
}

// remember is the change that keeps the answer to a write, nil when there is nothing to keep.
func (s *Server) remember(c caller, r *request, res result) (*Change, error) {
	given, ok := identified(r)
	if !ok {
		return nil, nil
	}
	data, err := json.Marshal(res.answer)
	if err != nil {
		return nil, fmt.Errorf("keep the answer: %w", err)
	}
	doc := replay{Request: digest(r), Status: res.status, Answer: data, At: s.now()}
	if res.secret {
		doc.Answer = nil
		if doc.Sealed, err = seal(data, c.secret, given); err != nil {
			return nil, err
		}
	}
	change, err := document(kindReplay, c.customer.ID, replayID(c, given), doc)
	return &change, err
}

func sealer(secret, given string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "nops replay "+given, 32)
	if err != nil {
		return nil, fmt.Errorf("seal the answer: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal the answer: %w", err)
	}
	return cipher.NewGCM(block) //nolint:wrapcheck // cannot fail for AES
}

func seal(data []byte, secret, given string) ([]byte, error) {
	aead, err := sealer(secret, given)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	return aead.Seal(nonce, nonce, data, nil), nil
}

func open(sealed []byte, secret, given string) ([]byte, error) {
	aead, err := sealer(secret, given)
	if err != nil {
		return nil, err
	}
	if len(sealed) < aead.NonceSize() {
		return nil, errors.New("stored answer: cut short")
	}
	data, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil)
	if err != nil {
		return nil, fmt.Errorf("stored answer: %w", err)
	}
	return data, nil
}

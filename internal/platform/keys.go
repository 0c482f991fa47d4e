package platform

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"sort"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// key is a stored API key: its hash, never itself.
type key struct {
	nopsapi.APIKey
	Hash       string `json:"hash"`
	CustomerID string `json:"customer_id"`
}

// hash is what is stored of a secret. Secrets are 128 random bits: a plain digest cannot be searched, and a slow one would
// slow down every request.
func hash(secret string) string {
	sum := sha256.Sum256([]byte("nops-api-key:" + secret))
	return hex.EncodeToString(sum[:])
}

func (k key) document() (Change, error) { return document(kindKey, k.CustomerID, k.Hash, k) }

func (s *Server) whoAmI(_ context.Context, c caller, _ *request) (result, error) {
	who := c.whoAmI()
	if !s.NoKarpenter {
		who.Features = append(who.Features, nopsapi.FeatureKarpenter)
	}
	if !s.NoRightsizing {
		who.Features = append(who.Features, nopsapi.FeatureRightsizing)
	}
	return found(who), nil
}

func (s *Server) keys(ctx context.Context, c caller) ([]key, error) {
	keys, err := list[key](ctx, s.store(), kindKey, c.customer.ID)
	sort.Slice(keys, func(i, j int) bool {
		a, b := keys[i], keys[j]
		return a.CreatedAt.Before(b.CreatedAt) || a.CreatedAt.Equal(b.CreatedAt) && a.ID < b.ID
	})
	return keys, err
}

func (s *Server) listKeys(ctx context.Context, c caller, _ *request) (result, error) {
	keys, err := s.keys(ctx, c)
	all := nopsapi.APIKeyList{APIKeys: []nopsapi.APIKey{}}
	for _, k := range keys {
		all.APIKeys = append(all.APIKeys, k.APIKey)
	}
	return found(all), err
}

func newSecret(c caller) string { return c.customer.ID + "." + randomHex(16) }

// mint makes a key and its secret.
func (s *Server) mint(c caller, name, arn string, scopes ...nopsapi.Scope) (nopsapi.APIKeyCreated, Change, error) {
	secret := newSecret(c)
	k := key{Hash: hash(secret), CustomerID: c.customer.ID, APIKey: nopsapi.APIKey{ID: "key-" + randomHex(6), Name: name, Scopes: scopes, ClusterARN: arn, CreatedAt: s.now()}}
	change, err := k.document()
	return nopsapi.APIKeyCreated{APIKey: k.APIKey, Key: secret}, change, err
}

func (s *Server) createKey(_ context.Context, c caller, r *request) (result, error) {
	var want nopsapi.NewAPIKey
	if err := nopsapi.Decode(r.body, &want); err != nil {
		return result{}, invalid(err)
	}
	if err := want.Validate(); err != nil {
		return result{}, invalid(err)
	}
	created, change, err := s.mint(c, want.Name, "", want.Scopes...)
	return result{status: http.StatusCreated, answer: created, changes: []Change{change}, secret: true}, err
}

func (s *Server) keyByID(ctx context.Context, c caller, id string) (key, error) {
	keys, err := s.keys(ctx, c)
	if err != nil {
		return key{}, err
	}
	for _, k := range keys {
		if k.ID == id {
			return k, nil
		}
	}
	return key{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no API key %s", id)
}

func (s *Server) rotateKey(ctx context.Context, c caller, r *request) (result, error) {
	k, err := s.keyByID(ctx, c, r.id())
	if err != nil {
		return result{}, err
	}
	if k.RevokedAt != nil {
		return result{}, refuse(http.StatusConflict, nopsapi.CodeConflict, "API key %s is revoked", k.ID)
	}
	secret, old := newSecret(c), k.Hash
	k.Hash = hash(secret)
	change, err := k.document()
	return result{
		status: http.StatusOK, answer: nopsapi.APIKeyCreated{APIKey: k.APIKey, Key: secret}, secret: true,
		changes: []Change{change, deletes(kindKey, old)},
	}, err
}

func (s *Server) revokeKey(ctx context.Context, c caller, r *request) (result, error) {
	k, err := s.keyByID(ctx, c, r.id())
	if err != nil {
		return result{}, err
	}
	if k.RevokedAt == nil {
		now := s.now()
		k.RevokedAt = &now
	}
	return found(k.APIKey).writes(kindKey, k.CustomerID, k.Hash, k)
}

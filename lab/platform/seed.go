package platform

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Customer is one customer of the lab's platform, with its credentials.
type Customer struct {
	ID              string `json:"id"`
	APIKey          string `json:"api_key"`   // scopes install and read
	AdminKey        string `json:"admin_key"` // scope admin
	WorkspaceID     string `json:"workspace_id"`
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
}

// AWSKey is a key pair of AWS.
type AWSKey struct {
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
}

// Seed is what a lab's platform knows from the beginning. The first customer is the one of the demo.
type Seed struct {
	Customers []Customer `json:"customers"`
	// User is the key pair of whoever installs: what AWS Signer's revocation API asks for. It writes no metrics.
	User AWSKey `json:"user"`
}

// LoadSeed reads the seed of a state directory, or makes it. It holds credentials: mode 0600.
func LoadSeed(stateDir string) (Seed, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return Seed{}, fmt.Errorf("seed of the platform: %w", err)
	}
	path := filepath.Join(stateDir, "seed.json")
	var seed Seed
	err := readJSON(path, &seed)
	switch {
	case err == nil && len(seed.Customers) > 0 && seed.User != (AWSKey{}):
		return seed, nil
	case err == nil && len(seed.Customers) > 0: // made before there was a user
		seed.User = newAWSKey()
		return seed, writeJSON(path, seed)
	case err == nil:
		return Seed{}, fmt.Errorf("seed of the platform: %s holds no customer", path)
	case !errors.Is(err, fs.ErrNotExist):
		return Seed{}, fmt.Errorf("seed of the platform: %w", err)
	}
	for _, id := range []string{"4242", "4343"} {
		seed.Customers = append(seed.Customers, newCustomer(id))
	}
	seed.User = newAWSKey()
	return seed, writeJSON(path, seed)
}

func newAWSKey() AWSKey {
	return AWSKey{AccessKeyID: "AKIA" + base32.StdEncoding.EncodeToString(random(10)), SecretAccessKey: base64.StdEncoding.EncodeToString(random(30))}
}

// newCustomer makes credentials in the shapes of the real ones.
func newCustomer(id string) Customer {
	uuid := random(16)
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80
	text, pair := hex.EncodeToString(uuid), newAWSKey()
	return Customer{
		ID:              id,
		APIKey:          id + "." + hex.EncodeToString(random(16)),
		AdminKey:        id + "." + hex.EncodeToString(random(16)),
		WorkspaceID:     "ws-" + strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-"),
		AccessKeyID:     pair.AccessKeyID,
		SecretAccessKey: pair.SecretAccessKey,
	}
}

func random(n int) []byte {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return raw
}

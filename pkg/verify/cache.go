package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Key names what a good result was about. It holds no tag: a tag moves, bytes do not.
type Key struct {
	Name   string `json:"name"` // canonical, for rules are about names
	Digest string `json:"digest"`
	Policy string `json:"policy"` // hash of the policy, and with it of every root and key that it trusts
}

// Cache remembers good findings. A cache that fails is one that remembers nothing.
type Cache interface {
	Get(k Key) (verdict.Finding, bool)
	Put(k Key, f verdict.Finding)
}

// CacheTTL is how long a good finding is believed: revocation may come any minute.
const CacheTTL = 10 * time.Minute

// FileCache keeps findings in a directory that its user alone may write.
type FileCache struct {
	Dir string
	Now func() time.Time
	TTL time.Duration // zero means CacheTTL
}

type cached struct {
	Key     Key             `json:"key"`
	At      time.Time       `json:"at"`
	Finding verdict.Finding `json:"finding"`
}

func (c FileCache) file(k Key) string {
	sum := sha256.Sum256([]byte(k.Name + "\x00" + k.Digest + "\x00" + k.Policy))
	return filepath.Join(c.Dir, hex.EncodeToString(sum[:])+".json")
}

// Get implements Cache. What others may write, or have written, is not believed.
func (c FileCache) Get(k Key) (verdict.Finding, bool) {
	path := c.file(k)
	for _, p := range []string{c.Dir, path} {
		info, err := os.Lstat(p)
		if err != nil || info.Mode().Perm()&0o022 != 0 || info.Mode()&os.ModeSymlink != 0 || !ownedByUs(info) {
			return verdict.Finding{}, false
		}
	}
	data, err := os.ReadFile(path) //nolint:gosec // a name made of digits in a directory of the user's own
	if err != nil {
		return verdict.Finding{}, false
	}
	var e cached
	ttl := c.TTL
	if ttl <= 0 {
		ttl = CacheTTL
	}
	if json.Unmarshal(data, &e) != nil || e.Key != k {
		return verdict.Finding{}, false
	}
	if age := c.Now().Sub(e.At); age < 0 || age > ttl {
		return verdict.Finding{}, false
	}
	return e.Finding, true
}

// Put implements Cache.
func (c FileCache) Put(k Key, f verdict.Finding) {
	if !f.Outcome.OK() || os.MkdirAll(c.Dir, 0o700) != nil {
		return
	}
	data, err := json.Marshal(cached{k, c.Now().UTC(), f})
	if err != nil {
		return
	}
	tmp, err := os.CreateTemp(c.Dir, ".new-*") // mode 0600
	if err != nil {
		return
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if tmp.Close() == nil && err == nil {
		_ = os.Rename(tmp.Name(), c.file(k)) // next time, then
	}
}

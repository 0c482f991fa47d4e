package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/internal/sigv4"
)

// signer is AWS Signer as far as those who verify ask it: what was revoked. It answers the key pair of the seed, and
// remembers in a file what was revoked. Whom to trust it tells nobody.
type signer struct {
	signing.Revocations
	file string

	mu sync.Mutex // of the file
}

// slowAnswer is how late a slow signer answers: nobody waits that long.
const slowAnswer = 10 * time.Minute

func newSigner(o Options, user AWSKey) (*signer, error) {
	s := &signer{file: o.path("revoked.json")}
	s.Region = o.Region
	s.Keys = func(id string) (sigv4.Key, error) {
		if id != user.AccessKeyID {
			return sigv4.Key{}, fmt.Errorf("no key %s", id)
		}
		return sigv4.Key{AccessKeyID: user.AccessKeyID, SecretAccessKey: user.SecretAccessKey}, nil
	}
	var before []string
	if err := readJSON(s.file, &before); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("what was revoked: %w", err)
	}
	for _, arn := range before {
		s.Revoke(arn, time.Time{})
	}
	return s, nil
}

// setRevoked revokes a signing job or the version of a profile, or takes it back, which AWS cannot.
func (s *signer) setRevoked(arn string, revoked bool) error {
	if !strings.HasPrefix(arn, "arn:") || !strings.Contains(arn, ":signer:") {
		return fmt.Errorf("revoke %q: expected the ARN of a signing job or of the version of a signing profile", arn)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if revoked {
		s.Revoke(arn, time.Time{})
	} else {
		s.Restore(arn)
	}
	return writeJSON(s.file, s.Revoked())
}

// fault makes it answer with a status, or too late; 0 and false end it.
func (s *signer) fault(status int, slow bool) {
	f := signing.RevocationFault{Status: status}
	if slow {
		f.Delay = slowAnswer
	}
	s.Inject(f)
}

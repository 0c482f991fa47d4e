package platform

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// registry is an OCI registry that keeps what it is given in a directory: blobs by go-containerregistry's disk handler,
// manifests, which that keeps in memory, in files beside them that are read back at the start.
type registry struct {
	dir  string
	next http.Handler
}

// manifest is a stored manifest under one of its names.
type manifest struct {
	Repository  string `json:"repository"`
	Reference   string `json:"reference"` // tag or digest
	ContentType string `json:"content_type"`
	Body        []byte `json:"body"`

	stored time.Time
}

func (m manifest) digest() string {
	sum := sha256.Sum256(m.Body)
	return "sha256:" + hex.EncodeToString(sum[:])
}

var attached = regexp.MustCompile(`^sha256-([0-9a-f]{64})(?:\.[a-z]+)?$`)

// about is the digest that a tag is attached to, as cosign's signatures are; empty for tags that people give. Such a tag
// leads to something only as long as what it is attached to is there.
func (m manifest) about() string {
	if match := attached.FindStringSubmatch(m.Reference); match != nil {
		return "sha256:" + match[1]
	}
	return ""
}

// named says whether somebody gave it a name to ask for it by.
func (m manifest) named() bool { return m.Reference != m.digest() && m.about() == "" }

const manifestLimit = 4 << 20 // that of the distribution specification

// openRegistry opens or makes the registry of a directory.
func openRegistry(dir string, now time.Time, log *slog.Logger) (*registry, error) {
	for _, sub := range []string{"blobs", "manifests"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("open the registry: %w", err)
		}
	}
	r := &registry{dir: dir, next: ggcr.New(
		ggcr.WithBlobHandler(ggcr.NewDiskBlobHandler(filepath.Join(dir, "blobs"))),
		ggcr.WithReferrersSupport(true),
		ggcr.Logger(slog.NewLogLogger(log.Handler(), slog.LevelDebug)),
	)}
	all, err := r.read()
	if err == nil {
		all, err = r.prune(all, now)
	}
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	r.load(all)
	return r, nil
}

var manifestPath = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)

// ServeHTTP implements http.Handler.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	match := manifestPath.FindStringSubmatch(req.URL.Path)
	if match == nil || req.Method != http.MethodPut && req.Method != http.MethodDelete {
		r.next.ServeHTTP(w, req)
		return
	}
	m := manifest{Repository: match[1], Reference: match[2], ContentType: req.Header.Get("Content-Type")}
	body, err := io.ReadAll(io.LimitReader(req.Body, manifestLimit+1))
	if err != nil || len(body) > manifestLimit {
		registryError(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the manifest is larger than 4 MiB, or ended early")
		return
	}
	m.Body = body
	req.Body = io.NopCloser(bytes.NewReader(body))
	var answer recorder
	r.next.ServeHTTP(&answer, req)
	if answer.status/100 == 2 {
		err = r.remember(req.Method, m)
	}
	var to references
	if req.Method == http.MethodPut && json.Unmarshal(body, &to) == nil && to.Subject.Digest != "" {
		// Says that the referrers API knows of it: without, clients write lists of their own under another tag.
		answer.Header().Set("Oci-Subject", to.Subject.Digest)
	}
	if err != nil {
		registryError(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	answer.replay(w)
}

// remember does on disk what was done in memory, before it is answered: what was answered is there after a restart.
func (r *registry) remember(method string, m manifest) error {
	if method == http.MethodPut {
		return r.keep(m)
	}
	if err := os.Remove(r.file(m)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget a manifest: %w", err)
	}
	return nil
}

func (r *registry) file(m manifest) string {
	sum := sha256.Sum256([]byte(m.Repository + "\x00" + m.Reference))
	return filepath.Join(r.dir, "manifests", hex.EncodeToString(sum[:])+".json")
}

// keep stores a manifest under its reference and, as it can be pulled by that too, its digest.
func (r *registry) keep(m manifest) error {
	for _, reference := range []string{m.digest(), m.Reference} {
		m.Reference = reference
		if err := writeJSON(r.file(m), m); err != nil {
			return err
		}
	}
	return nil
}

// read reads all manifests.
func (r *registry) read() ([]manifest, error) {
	dir := filepath.Join(r.dir, "manifests")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err //nolint:wrapcheck // named by openRegistry
	}
	var all []manifest
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		var m manifest
		err := readJSON(filepath.Join(dir, e.Name()), &m)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another lab deleted it just now
		} else if err != nil {
			return nil, err
		}
		if info, err := e.Info(); err == nil {
			m.stored = info.ModTime()
		}
		all = append(all, m)
	}
	return all, nil
}

// load gives the manifests to the registry in memory: what others refer to comes first, since an index is taken only when
// its images are there.
func (r *registry) load(all []manifest) {
	index := func(m manifest) bool {
		return strings.Contains(m.ContentType, "index") || strings.Contains(m.ContentType, "list")
	}
	sort.SliceStable(all, func(i, j int) bool { return !index(all[i]) && index(all[j]) })
	// An index of indexes may need several rounds.
	for left := len(all); left > 0; {
		var again []manifest
		for _, m := range all {
			if r.put(m) != http.StatusCreated {
				again = append(again, m)
			}
		}
		if len(again) == left {
			return // what they refer to is gone: nobody can pull them, and a new push replaces them
		}
		all, left = again, len(again)
	}
}

// keepUnused is how long what no tag leads to is kept. Every build of an agent leaves its predecessor behind; a lab that
// runs since before may still pull it for a while.
const keepUnused = 7 * 24 * time.Hour

// references are what a manifest leads to: its parts, and what it is about (a signature leads to what it signs).
type references struct {
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
	Subject   descriptor   `json:"subject"`
}

type descriptor struct {
	Digest string `json:"digest"`
}

// prune deletes manifests and blobs that no tag leads to, once they are old, and returns the manifests that are left.
func (r *registry) prune(all []manifest, now time.Time) ([]manifest, error) {
	old := func(at time.Time) bool { return now.Sub(at) > keepUnused }
	used := map[string]bool{} // digests of manifests
	for _, m := range all {
		if m.named() || !old(m.stored) {
			used[m.digest()] = true
		}
	}
	blobs := map[string]bool{}
	// What is used makes more used; a handful of rounds at most.
	for grown := true; grown; {
		grown = false
		use := func(digest string) {
			if digest != "" && !used[digest] {
				used[digest], grown = true, true
			}
		}
		for _, m := range all {
			var to references
			if json.Unmarshal(m.Body, &to) != nil {
				continue
			}
			if used[cmp.Or(to.Subject.Digest, m.about())] {
				use(m.digest())
			}
			if !used[m.digest()] {
				continue
			}
			for _, d := range append(to.Layers, to.Config) {
				blobs[d.Digest] = true
			}
			for _, d := range to.Manifests {
				use(d.Digest)
			}
		}
	}
	var kept []manifest
	for _, m := range all {
		if used[m.digest()] {
			kept = append(kept, m)
		} else if err := r.remember(http.MethodDelete, m); err != nil {
			return nil, err
		}
	}
	return kept, filepath.WalkDir(filepath.Join(r.dir, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || !old(info.ModTime()) || blobs[filepath.Base(filepath.Dir(path))+":"+d.Name()] {
			return nil //nolint:nilerr // another lab deleted it just now
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete an unused blob: %w", err)
		}
		return nil
	})
}

func (r *registry) put(m manifest) int {
	req, err := http.NewRequest(http.MethodPut, "http://registry/v2/"+m.Repository+"/manifests/"+m.Reference, bytes.NewReader(m.Body))
	if err != nil {
		return 0
	}
	req.Header.Set("Content-Type", m.ContentType)
	var answer recorder
	r.next.ServeHTTP(&answer, req)
	return answer.status
}

// recorder is an http.ResponseWriter that keeps a small answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *recorder) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *recorder) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *recorder) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p) //nolint:wrapcheck // never fails
}

// replay gives the answer to somebody else.
func (a *recorder) replay(w http.ResponseWriter) {
	for name, values := range a.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes())
}

func registryError(w http.ResponseWriter, status int, code, message string) {
	body, _ := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}}) //nolint:errchkjson // strings
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// pullOnly refuses everything that writes.
func pullOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			registryError(w, http.StatusForbidden, "DENIED", "this address only serves pulls")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// anonymous asks for a token as ECR Public does, and gives one to everybody who asks.
func anonymous(host, token string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token/" || r.URL.Path == "/token" {
			w.Header().Set("Content-Type", "application/json")
			body, _ := json.Marshal(map[string]string{"token": token})
			_, _ = w.Write(body)
			return
		}
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=%q,scope=%q", "https://"+host+"/token/", host, "aws"))
			registryError(w, http.StatusUnauthorized, "DENIED", "Not Authorized")
			return
		}
		next.ServeHTTP(w, r)
	})
}

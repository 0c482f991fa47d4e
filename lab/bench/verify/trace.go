package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// A request is one that a server answered during a pass.
type request struct {
	method, host, uri string
	status            int
	start, end        time.Time
	needs             []string // what the request names that somebody may have had to tell: digests, a signing job
	header            http.Header
	body              []byte
	learned           string // all that its answer says, see take
}

// A tracer answers each request one round trip late, and writes down what was asked and answered.
type tracer struct {
	roundTrip time.Duration

	mu       sync.Mutex
	requests []*request
}

// take is what happened since it was called last. Answers are read here and not while they are given: the server shares its
// processors with the client.
func (t *tracer) take() (requests []*request) {
	t.mu.Lock()
	requests, t.requests = t.requests, nil
	t.mu.Unlock()
	for _, r := range requests {
		r.learned = learned(r.header, r.body)
		r.header, r.body = nil, nil
	}
	return requests
}

// mostLearned is how much of an answer is kept: manifests, envelopes and lists are smaller, layers need not be looked at.
const mostLearned = 1 << 20

// around is the server with the round trip before it.
func (t *tracer) around(server http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one := &request{method: r.Method, host: r.Host, uri: r.URL.RequestURI(), start: time.Now(), needs: needs(r)}
		timer := time.NewTimer(t.roundTrip)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
		answer := &answer{ResponseWriter: w, status: http.StatusOK}
		server.ServeHTTP(answer, r)
		one.status, one.header, one.body, one.end = answer.status, answer.Header().Clone(), answer.body.Bytes(), time.Now()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.requests = append(t.requests, one)
	})
}

// An answer is kept as it goes out.
type answer struct {
	http.ResponseWriter

	status int
	body   bytes.Buffer
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if room := mostLearned - a.body.Len(); room > 0 {
		a.body.Write(p[:min(room, len(p))])
	}
	return a.ResponseWriter.Write(p)
}

var hexDigest = regexp.MustCompile(`[0-9a-f]{64}`)

// needs are the things that a request names and that its sender cannot make up: the digests in its path (in tags as well),
// and the signing job whose revocation is asked for.
func needs(r *http.Request) []string {
	all := hexDigest.FindAllString(r.URL.Path, -1)
	if job := r.URL.Query().Get("jobArn"); job != "" {
		all = append(all, job)
	}
	return all
}

// learned is what an answer tells: its text, its headers, the digest of its bytes, and what is inside a JWS.
func learned(header http.Header, body []byte) string {
	sum := sha256.Sum256(body)
	var all strings.Builder
	for _, name := range slices.Sorted(maps.Keys(header)) {
		all.WriteString(strings.Join(header[name], "\n") + "\n")
	}
	all.Write(body)
	all.WriteString("\n" + hex.EncodeToString(sum[:]) + "\n")
	var envelope struct{ Payload, Protected string }
	if json.Unmarshal(body, &envelope) == nil {
		for _, part := range []string{envelope.Payload, envelope.Protected} {
			if text, err := io.ReadAll(base64.NewDecoder(base64.RawURLEncoding, strings.NewReader(part))); err == nil {
				all.Write(text)
			}
		}
	}
	return all.String()
}

// critical is the longest chain of requests of which each could not have been sent before the one before it was answered,
// because it names what only that answer told. It is what a pass with unlimited parallelism still has to wait for.
func critical(requests []*request) []*request {
	ordered := slices.SortedFunc(slices.Values(requests), func(a, b *request) int { return a.start.Compare(b.start) })
	chains := make([][]*request, len(ordered))
	var longest []*request
	for i, r := range ordered {
		var before []*request
		for _, need := range r.needs {
			// Whoever told it first, by the shortest way; nobody: it was known from the beginning.
			var shortest []*request
			for j, other := range ordered[:i] {
				if !other.end.After(r.start) && strings.Contains(other.learned, need) && (shortest == nil || len(chains[j]) < len(shortest)) {
					shortest = chains[j]
				}
			}
			if len(shortest) > len(before) {
				before = shortest
			}
		}
		chains[i] = append(slices.Clone(before), r)
		if len(chains[i]) > len(longest) {
			longest = chains[i]
		}
	}
	return longest
}

// kind says in a word or two what a request is for.
func (r *request) kind() string {
	path, _, _ := strings.Cut(r.uri, "?")
	last := path[strings.LastIndex(path, "/")+1:]
	digest := hexDigest.MatchString(last)
	switch {
	case strings.HasPrefix(path, "/revocations"):
		return "revocation"
	case path == "/v2/":
		return "is it a registry"
	case strings.Contains(path, "/referrers/"):
		return "referrers"
	case strings.Contains(path, "/blobs/"):
		return "blob"
	case strings.HasSuffix(last, ".sig"):
		return ".sig tag"
	case strings.HasSuffix(last, ".att"):
		return ".att tag"
	case strings.HasPrefix(last, "sha256-"):
		return "fallback tag"
	case digest:
		return "manifest by digest"
	}
	return "manifest by tag"
}

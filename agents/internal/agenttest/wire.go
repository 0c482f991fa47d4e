package agenttest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
)

var errCut = errors.New("connection cut")

func stringReader(s string) io.Reader { return strings.NewReader(s) }

// record keeps the body of a request, unpacked.
func (p *Platform) record(r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(raw))
	if err != nil {
		return
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		if zip, err := gzip.NewReader(bytes.NewReader(raw)); err == nil {
			if plain, err := io.ReadAll(zip); err == nil {
				raw = plain
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes = append(append(p.bytes, raw...), '\n')
}

// Received is every body that was sent over RoundTrip, unpacked, one a line.
func (p *Platform) Received() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.bytes)
}

// Buffer is a buffer for logs that several goroutines write.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String is what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

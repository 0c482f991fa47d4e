package cli

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// TestConnectionsAreKept has a registry answer as many requests at once as images are verified at a time, and then as many again: over the
// connections that are there.
func TestConnectionsAreKept(t *testing.T) {
	const atATime, rounds = verify.DefaultParallel, 3
	content := []byte("a blob")
	var opened atomic.Int32
	var mu sync.Mutex
	waiting := make(chan struct{})
	inside := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		together := waiting
		if inside++; inside == atATime {
			inside, waiting = 0, make(chan struct{})
			close(together)
		}
		mu.Unlock()
		select {
		case <-together:
		case <-r.Context().Done():
		}
		_, _ = w.Write(content)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)

	source, err := newSource(sourceOptions{UserAgent: "test"})
	must(t, err)
	at, err := ref.Parse(strings.TrimPrefix(server.URL, "http://") + "/nops/good:1")
	must(t, err)
	d := ocispec.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	for range rounds {
		var wg sync.WaitGroup
		for range atATime {
			wg.Go(func() {
				if _, err := source.Fetch(t.Context(), at, d, 100); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	if got := opened.Load(); got != atATime {
		t.Errorf("%d connections for %d times %d requests at a time, want %d", got, rounds, atATime, atATime)
	}
}

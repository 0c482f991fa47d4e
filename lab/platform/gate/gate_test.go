package gate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/internal/sigv4"
)

var (
	testTime = time.Date(2026, 11, 23, 14, 5, 6, 0, time.UTC)
	testKey  = Key{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
)

// sample and ts are a remote-write message of a test.
type sample struct {
	value float64
	at    time.Time
}

type ts struct {
	labels  [][2]string
	samples []sample
}

// encode writes the message as the protocol wants it.
func encode(all ...ts) []byte {
	var message []byte
	for _, s := range all {
		var series []byte
		for _, l := range s.labels {
			series = lengthy(series, 1, lengthy(lengthy(nil, 1, []byte(l[0])), 2, []byte(l[1])))
		}
		for _, p := range s.samples {
			point := append([]byte{1<<3 | wire64}, binary.LittleEndian.AppendUint64(nil, math.Float64bits(p.value))...)
			point = binary.AppendUvarint(append(point, 2<<3|wireVarint), uint64(p.at.UnixMilli()))
			series = lengthy(series, 2, point)
		}
		message = lengthy(message, 1, series)
	}
	return message
}

func lengthy(to []byte, number uint64, value []byte) []byte {
	to = binary.AppendUvarint(to, number<<3|wireBytes)
	return append(binary.AppendUvarint(to, uint64(len(value))), value...)
}

func named(name string, samples ...sample) ts {
	return ts{labels: [][2]string{{"__name__", name}}, samples: samples}
}

// store is what stands behind the gate in these tests: it keeps what it is given.
type store struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   [][]byte
	status   int
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{status: http.StatusNoContent}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests, s.bodies = append(s.requests, r), append(s.bodies, body)
		if strings.HasSuffix(r.URL.Path, "/write") {
			w.WriteHeader(s.status)
			_, _ = io.WriteString(w, "from the store")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"path":%q,"query":%q,"body":%q}`, r.URL.Path, r.URL.RawQuery, body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *store) writes(t *testing.T) []string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, b := range s.bodies {
		message, err := snappy.Decode(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(message))
	}
	return all
}

var otherKey = Key{AccessKeyID: "AKIAI44QH8DHBEXAMPLE", SecretAccessKey: "je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY"}

func newGate(t *testing.T) (*Gate, *store, *store) {
	t.Helper()
	a, b := newStore(t), newStore(t)
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	return &Gate{
		Region: "us-east-1", Account: "123456789012", Now: func() time.Time { return testTime },
		Workspaces: []Workspace{{ID: "ws-1", Key: testKey, Store: parse(a.URL)}, {ID: "ws-2", Key: otherKey, Store: parse(b.URL)}},
	}, a, b
}

// call signs a request and gives it to the gate.
func call(g http.Handler, key *Key, method, path string, body []byte, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "https://aps-workspaces.us-east-1.amazonaws.com"+path, bytes.NewReader(body))
	r.URL.Scheme, r.URL.Host = "", "" // as a server sees it
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if key != nil {
		sum := sha256.Sum256(body)
		pair := aws.Credentials{AccessKeyID: key.AccessKeyID, SecretAccessKey: key.SecretAccessKey}
		if err := v4.NewSigner().SignHTTP(r.Context(), pair, r, hex.EncodeToString(sum[:]), Service, "us-east-1", testTime); err != nil {
			panic(err)
		}
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

func write(g http.Handler, key *Key, workspace string, message []byte) *httptest.ResponseRecorder {
	return call(g, key, http.MethodPost, "/workspaces/"+workspace+"/api/v1/remote_write", snappy.Encode(nil, message), "Content-Encoding", "snappy", "Content-Type", "application/x-protobuf")
}

func TestWrites(t *testing.T) {
	good := encode(named("up", sample{1, testTime}), named("down", sample{2, testTime.Add(-time.Minute)}))
	wide := ts{samples: []sample{{1, testTime}}}
	for i := range 151 {
		wide.labels = append(wide.labels, [2]string{fmt.Sprintf("l%d", i), "v"})
	}
	old := sample{1, testTime.Add(-time.Hour - time.Millisecond)}
	packed := snappy.Encode(nil, good)
	for _, tc := range []struct {
		name, why string
		do        func(g *Gate) *httptest.ResponseRecorder
		status    int
		kind      string // AWS's name of the error
		rejected  string
		stored    []string // messages that reach the store
		samples   uint64
	}{
		{"in order", "", func(g *Gate) *httptest.ResponseRecorder { return write(g, &testKey, "ws-1", good) }, 200, "", "", []string{string(good)}, 2},
		{"not signed", "AWS lets nobody in", func(g *Gate) *httptest.ResponseRecorder { return write(g, nil, "ws-1", good) }, 403, "MissingAuthenticationTokenException", sigv4.Unsigned, nil, 0},
		{"wrong secret", "the story of the wrong key", func(g *Gate) *httptest.ResponseRecorder {
			return write(g, &Key{AccessKeyID: testKey.AccessKeyID, SecretAccessKey: "x"}, "ws-1", good)
		}, 403, "InvalidSignatureException", sigv4.Signature, nil, 0},
		{"another customer's key", "cross-writes are refused", func(g *Gate) *httptest.ResponseRecorder { return write(g, &otherKey, "ws-1", good) }, 403, "AccessDeniedException", Access, nil, 0},
		{"no such workspace", "nor is it said that it does not exist", func(g *Gate) *httptest.ResponseRecorder { return write(g, &testKey, "ws-9", good) }, 403, "AccessDeniedException", Access, nil, 0},
		{"zstd", "what vmagent sends without -remoteWrite.forcePromProto", func(g *Gate) *httptest.ResponseRecorder {
			return call(g, &testKey, http.MethodPost, "/workspaces/ws-1/api/v1/remote_write", packed, "Content-Encoding", "zstd")
		}, 400, "ValidationException", Encoding, nil, 0},
		{"not packed", "a message as it is", func(g *Gate) *httptest.ResponseRecorder {
			return call(g, &testKey, http.MethodPost, "/workspaces/ws-1/api/v1/remote_write", good)
		}, 400, "ValidationException", Encoding, nil, 0},
		{"snappy in name only", "", func(g *Gate) *httptest.ResponseRecorder {
			return call(g, &testKey, http.MethodPost, "/workspaces/ws-1/api/v1/remote_write", []byte("\x04abc"), "Content-Encoding", "snappy")
		}, 400, "ValidationException", Encoding, nil, 0},
		{"no message", "packed nonsense", func(g *Gate) *httptest.ResponseRecorder {
			return write(g, &testKey, "ws-1", []byte("\x0a\xff\xff\xff\xff\x0f"))
		}, 400, "ValidationException", Invalid, nil, 0},
		{"too large as sent", "", func(g *Gate) *httptest.ResponseRecorder {
			g.Limits.Body = int64(len(packed)) - 1
			return write(g, &testKey, "ws-1", good)
		}, 413, "RequestEntityTooLarge", TooLarge, nil, 0},
		{"too large unpacked", "a small body may hold a large message", func(g *Gate) *httptest.ResponseRecorder {
			g.Limits.Unpacked = 1 << 20
			return write(g, &testKey, "ws-1", lengthy(nil, 9, make([]byte, 1<<20)))
		}, 413, "RequestEntityTooLarge", TooLarge, nil, 0},
		{"one sample too old", "its neighbours are kept, and the answer says so", func(g *Gate) *httptest.ResponseRecorder {
			return write(g, &testKey, "ws-1", encode(named("up", old, sample{1, testTime}), named("gone", old)))
		}, 400, "ValidationException", TooOld, []string{string(encode(named("up", sample{1, testTime})))}, 1},
		{"all too old", "nothing to store", func(g *Gate) *httptest.ResponseRecorder {
			return write(g, &testKey, "ws-1", encode(named("gone", old)))
		}, 400, "ValidationException", TooOld, nil, 0},
		{"old, and any age allowed", "", func(g *Gate) *httptest.ResponseRecorder {
			g.Limits.Age = -1
			return write(g, &testKey, "ws-1", encode(named("gone", old)))
		}, 200, "", "", []string{string(encode(named("gone", old)))}, 1},
		{"a series with too many labels", "the others are kept", func(g *Gate) *httptest.ResponseRecorder {
			return write(g, &testKey, "ws-1", encode(wide, named("up", sample{1, testTime})))
		}, 400, "ValidationException", TooMany, []string{string(encode(named("up", sample{1, testTime})))}, 1},
		{"faster than the rate", "429, to be retried", func(g *Gate) *httptest.ResponseRecorder {
			g.Limits.Rate = 0.1 // a bucket of one
			if first := write(g, &testKey, "ws-1", encode(named("up", sample{1, testTime}))); first.Code != 200 {
				t.Errorf("the first write within the rate: %d", first.Code)
			}
			return write(g, &testKey, "ws-1", good)
		}, 429, "ThrottlingException", RateLimit, []string{string(encode(named("up", sample{1, testTime})))}, 1},
		{"an empty message", "some agents knock with one", func(g *Gate) *httptest.ResponseRecorder { return write(g, &testKey, "ws-1", nil) }, 200, "", "", nil, 0},
		{"read as a write", "", func(g *Gate) *httptest.ResponseRecorder {
			return call(g, &testKey, http.MethodGet, "/workspaces/ws-1/api/v1/remote_write", nil)
		}, 404, "UnknownOperationException", NoPath, nil, 0},
	} {
		g, a, b := newGate(t)
		w := tc.do(g)
		if w.Code != tc.status || w.Header().Get("X-Amzn-Errortype") != tc.kind {
			t.Errorf("%s: %d %s %s, want %d %s: %s", tc.name, w.Code, w.Header().Get("X-Amzn-Errortype"), w.Body, tc.status, tc.kind, tc.why)
		}
		if tc.kind != "" {
			var said struct{ Message string }
			if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil || said.Message == "" {
				t.Errorf("%s: the answer %q holds no message: %v", tc.name, w.Body, err)
			}
			for _, secret := range []string{testKey.AccessKeyID, otherKey.AccessKeyID} {
				if strings.Contains(w.Body.String(), secret) {
					t.Errorf("%s: the answer names a key", tc.name)
				}
			}
		}
		if diff := cmp.Diff(tc.stored, a.writes(t)); diff != "" {
			t.Errorf("%s: what reached the store (-want +got):\n%s", tc.name, diff)
		}
		if got := b.writes(t); len(got) > 0 {
			t.Errorf("%s: %d writes reached the other customer's store", tc.name, len(got))
		}
		count := Count{Rejected: map[string]uint64{}}
		for _, c := range g.Counts() {
			count.Samples += c.Samples
			for k, n := range c.Rejected {
				count.Rejected[k] += n
			}
		}
		want := Count{Samples: tc.samples, Rejected: map[string]uint64{}}
		if tc.rejected != "" {
			want.Rejected[tc.rejected] = 1
		}
		if diff := cmp.Diff(want, count); diff != "" {
			t.Errorf("%s: counts (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestStoreThatFails(t *testing.T) {
	good := encode(named("up", sample{1, testTime}))
	for _, tc := range []struct {
		name           string
		status, answer int
	}{
		{"refuses", 400, 400}, {"has trouble", 500, 503}, {"is gone", 0, 503},
	} {
		g, a, _ := newGate(t)
		a.status = tc.status
		if tc.status == 0 {
			a.Close()
		}
		if w := write(g, &testKey, "ws-1", good); w.Code != tc.answer {
			t.Errorf("the store %s: %d, want %d: a queue keeps what got 5xx and drops what got 400", tc.name, w.Code, tc.answer)
		}
		if c := g.Counts()["ws-1"]; c.Writes != 0 {
			t.Errorf("the store %s: counted as accepted", tc.name)
		}
	}
}

func TestReads(t *testing.T) {
	for _, tc := range []struct {
		name         string
		key          *Key
		method, path string
		body         string
		status       int
		want         string
	}{
		{"a query", &testKey, "GET", "/workspaces/ws-1/api/v1/query?query=up&time=1", "", 200, `{"path":"/api/v1/query","query":"query=up&time=1","body":""}`},
		{"a query in the body", &testKey, "POST", "/workspaces/ws-1/api/v1/query_range", "query=up", 200, `{"path":"/api/v1/query_range","query":"","body":"query=up"}`},
		{"values of a label", &testKey, "GET", "/workspaces/ws-1/api/v1/label/job/values", "", 200, `{"path":"/api/v1/label/job/values","query":"","body":""}`},
		{"not signed", nil, "GET", "/workspaces/ws-1/api/v1/query?query=up", "", 403, ""},
		{"another customer's", &otherKey, "GET", "/workspaces/ws-1/api/v1/query?query=up", "", 403, ""},
		{"delete", &testKey, "DELETE", "/workspaces/ws-1/api/v1/query", "", 404, ""},
		{"administration", &testKey, "POST", "/workspaces/ws-1/api/v1/admin/tsdb/delete_series", "", 404, ""},
		{"the store's own import", &testKey, "POST", "/workspaces/ws-1/api/v1/import", "", 404, ""},
		{"a way out of the workspace", &testKey, "GET", "/workspaces/ws-1/api/v1/label/../../admin/values", "", 404, ""},
	} {
		g, _, _ := newGate(t)
		w := call(g, tc.key, tc.method, tc.path, []byte(tc.body))
		if w.Code != tc.status || tc.want != "" && w.Body.String() != tc.want {
			t.Errorf("%s: %d %s, want %d %s", tc.name, w.Code, w.Body, tc.status, tc.want)
		}
	}
	g, a, _ := newGate(t)
	call(g, &testKey, "GET", "/workspaces/ws-1/api/v1/labels", nil)
	if got := a.requests[0].Header.Get("Authorization"); got != "" {
		t.Error("the signature was passed on to the store")
	}
}

func TestOpenReads(t *testing.T) {
	g, a, b := newGate(t)
	server := httptest.NewServer(g.Open("ws-1"))
	defer server.Close()
	for _, tc := range []struct {
		name, method, path string
		status             int
	}{
		{"a query", "GET", "/api/v1/query?query=up", 200},
		{"a query in the body", "POST", "/api/v1/query", 200},
		{"the page", "GET", "/vmui/", 200},
		{"the root leads to the page", "GET", "/", 200},
		{"a write", "POST", "/api/v1/write", 404},
		{"an import", "POST", "/api/v1/import/prometheus", 404},
		{"deletion", "GET", "/api/v1/admin/tsdb/delete_series", 404},
		{"the store's flags", "GET", "/flags", 404},
		{"a workspace by name", "GET", "/workspaces/ws-2/api/v1/query", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, server.URL+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != tc.status {
			t.Errorf("%s: %s, want %d", tc.name, res.Status, tc.status)
		}
	}
	if len(b.requests) != 0 {
		t.Error("the other customer's store was asked")
	}
	a.Close()
	res, err := server.Client().Get(server.URL + "/api/v1/query?query=up")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the store is gone: %s, want 503", res.Status)
	}
}

func TestInjectedFaults(t *testing.T) {
	g, _, _ := newGate(t)
	good := encode(named("up", sample{1, testTime}))
	g.Inject(Fault{Workspace: "ws-1", Status: 429, RetryAfter: 1500 * time.Millisecond, Times: 2})
	for i, want := range []int{429, 429, 200} {
		w := write(g, &testKey, "ws-1", good)
		if w.Code != want || want == 429 && w.Header().Get("Retry-After") != "2" {
			t.Errorf("write %d: %d, Retry-After %q; want %d, rounded up", i, w.Code, w.Header().Get("Retry-After"), want)
		}
		if w := write(g, &otherKey, "ws-2", good); w.Code != 200 {
			t.Errorf("write %d of the other customer: %d", i, w.Code)
		}
	}
	g.Inject(Fault{Status: 503})
	if w := call(g, &testKey, "GET", "/workspaces/ws-1/api/v1/query?query=up", nil); w.Code != 200 {
		t.Errorf("a read while writes fail: %d", w.Code)
	}
	if w := write(g, nil, "ws-1", good); w.Code != 403 {
		t.Errorf("not signed while writes fail: %d, want 403: the door is before the counter", w.Code)
	}
	g.Inject(Fault{Status: 503, Reads: true})
	if w := call(g, &testKey, "GET", "/workspaces/ws-1/api/v1/query?query=up", nil); w.Code != 503 {
		t.Errorf("a read while everything fails: %d", w.Code)
	}
	g.Inject(Fault{})
	if w := write(g, &testKey, "ws-1", good); w.Code != 200 {
		t.Errorf("after the fault: %d", w.Code)
	}
}

func TestCountsAreBounded(t *testing.T) {
	g, _, _ := newGate(t)
	for i := range 100 {
		write(g, nil, fmt.Sprintf("ws-made-up-%d", i), nil)
	}
	counts := g.Counts()
	if len(counts) != 3 || counts[""].Rejected[sigv4.Unsigned] != 100 {
		t.Errorf("%d entries, %d without a workspace; want the two workspaces and one for the rest", len(counts), counts[""].Rejected[sigv4.Unsigned])
	}
}

func TestRefusalsAreLoggedWithoutCredentials(t *testing.T) {
	g, _, _ := newGate(t)
	var log bytes.Buffer
	g.Log = slog.New(slog.NewTextHandler(&log, nil))
	write(g, &otherKey, "ws-1", nil)
	write(g, &Key{AccessKeyID: testKey.AccessKeyID, SecretAccessKey: "wrong-secret"}, "ws-1", nil)
	for _, secret := range []string{testKey.AccessKeyID, otherKey.AccessKeyID, otherKey.SecretAccessKey, "wrong-secret", "Signature="} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log names %q", secret)
		}
	}
	if strings.Count(log.String(), "refused") != 2 {
		t.Errorf("two refusals, and the log says:\n%s", &log)
	}
}

// FuzzScreen: whatever comes in, nothing falls over; what is left out is what should be, and the rest is as it was.
func FuzzScreen(f *testing.F) {
	now := testTime
	f.Add(encode(named("up", sample{1, now}), named("old", sample{2, now.Add(-2 * time.Hour)})))
	f.Add([]byte("\x0a\x05hello"))
	f.Add(lengthy(nil, 3, []byte("metadata")))
	f.Add([]byte{0x0a, 0x02, 0x12, 0x00})
	f.Fuzz(func(t *testing.T, message []byte) {
		kept, found, err := screen(message, now.Add(-time.Hour), 3)
		if err != nil {
			return
		}
		again, second, err := screen(kept, now.Add(-time.Hour), 3)
		if err != nil {
			t.Fatalf("what was kept is no message: %v", err)
		}
		if !bytes.Equal(kept, again) || second.tooOld != 0 || second.labels != 0 || second.samples != found.samples || second.series != found.series {
			t.Errorf("screened twice: %+v, then %+v", found, second)
		}
		all, every, err := screen(message, time.UnixMilli(math.MinInt64), math.MaxInt)
		if err != nil || every.samples < found.samples+found.tooOld && found.labels == 0 || len(all) > len(message)+len(message) {
			t.Errorf("without limits: %+v (%v), with: %+v", every, err, found)
		}
	})
}

func TestFieldsRefuseDamage(t *testing.T) {
	for name, message := range map[string][]byte{
		"no field number": {0x02, 0x00}, "a group": {0x0b}, "an unending number": {0x08, 0xff}, "a short 64-bit": {0x09, 1, 2}, "a short 32-bit": {0x0d, 1},
		"a string longer than the message": {0x0a, 0x05, 'a'}, "a length without end": {0x0a, 0xff}, "an unending tag": {0xff},
	} {
		if err := fields(message, func(uint64, []byte, []byte) error { return nil }); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	stop := errors.New("enough")
	if err := fields([]byte{0x08, 0x01}, func(uint64, []byte, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the visitor's error became %v", err)
	}
}

package platform_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// paper is openapi.yaml as a judge of what crosses the wire.
type paper struct {
	mux      *http.ServeMux // finds the operation of a request
	compiler *jsonschema.Compiler
	content  map[string]bool // pointers to schemas that exist
	statuses map[string][]string
	ops      []string // "GET /path"

	mu   sync.Mutex
	seen map[string]bool // operations that were answered 2xx
}

func readPaper(t *testing.T) *paper {
	t.Helper()
	data, err := os.ReadFile("../../pkg/nopsapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if data, err = yaml.YAMLToJSON(data); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	type media struct {
		Content map[string]json.RawMessage `json:"content"`
	}
	var parsed struct {
		Paths map[string]map[string]struct {
			RequestBody *media           `json:"requestBody"`
			Responses   map[string]media `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(data, &parsed); err != nil {
		t.Fatal(err)
	}
	p := &paper{mux: http.NewServeMux(), compiler: jsonschema.NewCompiler(), content: map[string]bool{}, statuses: map[string][]string{}, seen: map[string]bool{}}
	p.compiler.AssertFormat()
	if err := p.compiler.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	for path, methods := range parsed.Paths {
		for method, op := range methods {
			name := strings.ToUpper(method) + " " + path
			p.ops = append(p.ops, name)
			pattern := name
			if strings.HasSuffix(pattern, "/") {
				pattern += "{$}"
			}
			p.mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
			if op.RequestBody != nil {
				p.content[p.pointer(name, "requestBody")] = true
			}
			for status, res := range op.Responses {
				p.statuses[name] = append(p.statuses[name], status)
				if len(res.Content) > 0 {
					p.content[p.pointer(name, "responses/"+status)] = true
				}
			}
		}
	}
	slices.Sort(p.ops)
	return p
}

func (p *paper) pointer(op, part string) string {
	method, path, _ := strings.Cut(op, " ")
	escaped := strings.NewReplacer("~", "~0", "/", "~1").Replace(path)
	return "openapi.json#/paths/" + url.PathEscape(escaped) + "/" + strings.ToLower(method) + "/" + part + "/content/application~1json/schema"
}

func (p *paper) validate(pointer string, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := p.compiler.Compile(pointer)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return s.Validate(value)
}

// judge says what in an exchange is not as the document says.
func (p *paper) judge(r *http.Request, sent []byte, res *http.Response, answer []byte) (problems []error) {
	fail := func(format string, err error) {
		if err != nil {
			problems = append(problems, errors.New(format+": "+err.Error()))
		}
	}
	for _, h := range []string{"Date", nopsapi.RequestIDHeader, nopsapi.VersionHeader} {
		if res.Header.Get(h) == "" {
			problems = append(problems, errors.New("no header "+h))
		}
	}
	_, pattern := p.mux.Handler(r)
	op := strings.TrimSuffix(pattern, "{$}")
	if res.StatusCode >= 400 {
		fail("refusal", p.validate("openapi.json#/components/schemas/ErrorBody", answer))
		var body nopsapi.ErrorBody
		if err := json.Unmarshal(answer, &body); err == nil && body.Error.RequestID != res.Header.Get(nopsapi.RequestIDHeader) {
			problems = append(problems, errors.New("the request ID of the body is not that of the header"))
		}
		return problems
	}
	if op == "" {
		return append(problems, errors.New("served, but not in the document"))
	}
	p.mu.Lock()
	p.seen[op] = true
	p.mu.Unlock()
	if res.StatusCode == http.StatusNotModified {
		return problems
	}
	status := strconv.Itoa(res.StatusCode)
	if !slices.Contains(p.statuses[op], status) {
		return append(problems, errors.New("status "+status+" is not in the document"))
	}
	fail("answer", p.validate(p.pointer(op, "responses/"+status), answer))
	if pointer := p.pointer(op, "requestBody"); p.content[pointer] {
		fail("request", p.validate(pointer, sent))
	}
	return problems
}

// checked is a handler whose every exchange is held against the document.
func (p *paper) checked(t *testing.T, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
		if r.Header.Get("Content-Encoding") == "gzip" {
			if zip, err := gzip.NewReader(bytes.NewReader(sent)); err == nil {
				sent, _ = io.ReadAll(zip)
			}
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		res := rec.Result()
		answer := rec.Body.Bytes()
		plain := answer
		if res.Header.Get("Content-Encoding") == "gzip" {
			zip, err := gzip.NewReader(bytes.NewReader(answer))
			if err == nil {
				plain, err = io.ReadAll(zip)
			}
			if err != nil {
				t.Errorf("%s %s: an answer that is said to be gzip: %v", r.Method, r.URL.Path, err)
			}
		}
		if r.Context().Err() == nil && strings.HasPrefix(r.URL.Path, "/svc/") {
			for _, problem := range p.judge(r, sent, res, plain) {
				t.Errorf("%s %s → %d: %v\n%s", r.Method, r.URL.Path, res.StatusCode, problem, plain)
			}
		}
		for k, v := range res.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(res.StatusCode)
		_, _ = w.Write(answer)
	})
}

// TestThePaperSees plants what is not as the document says: it must be found.
func TestThePaperSees(t *testing.T) {
	p := readPaper(t)
	for _, tt := range []struct {
		name, method, path, sent, answer string
		status                           int
	}{
		{"missing field", "GET", nopsapi.PathWhoAmI(), "", `{"key_id":"k","scopes":["read"],"contract_version":1}`, 200},
		{"wrong value", "GET", nopsapi.PathWhoAmI(), "", `{"key_id":"k","customer_id":"c","scopes":["root"],"contract_version":1}`, 200},
		{"wrong status", "GET", nopsapi.PathWhoAmI(), "", `{"key_id":"k","customer_id":"c","scopes":["read"],"contract_version":1}`, 201},
		{"unknown path", "GET", nopsapi.Base + "/surprise", "", `{}`, 200},
		{"refusal of another form", "GET", nopsapi.PathWhoAmI(), "", `{"message":"no"}`, 401},
		{"wrong request", "POST", nopsapi.PathAPIKeys(), `{"scopes":[]}`, `{"id":"i","scopes":["read"],"created_at":"2026-01-02T03:04:05Z","key":"k"}`, 201},
		{"not a time", "POST", nopsapi.PathAPIKeys(), `{"scopes":["read"]}`, `{"id":"i","scopes":["read"],"created_at":"yesterday","key":"k"}`, 201},
	} {
		header := http.Header{"Date": {"x"}, nopsapi.RequestIDHeader: {"x"}, nopsapi.VersionHeader: {"1"}}
		problems := p.judge(httptest.NewRequest(tt.method, tt.path, nil), []byte(tt.sent), &http.Response{StatusCode: tt.status, Header: header}, []byte(tt.answer))
		if len(problems) == 0 {
			t.Errorf("%s: not seen", tt.name)
		}
	}
}

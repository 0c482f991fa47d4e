package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	nops "github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Played is the scenario of markets and commitments that the platform plays.
type Played struct {
	StartedAt time.Time `json:"started_at"`
	Scenario  struct {
		Name  string `json:"name"` // empty: none is played
		About string `json:"about"`
	} `json:"scenario"`
}

// Scenario begins a scenario for the clusters of the first customer: a file's text, and how far into it to begin. It goes on when the
// platform is down, and after it is up again.
func (c Control) Scenario(ctx context.Context, text []byte, at time.Duration) (Played, error) {
	return c.played(ctx, http.MethodPut, "/scenario?"+url.Values{"at": {at.String()}}.Encode(), text)
}

// EndScenario ends it: what was published is served again.
func (c Control) EndScenario(ctx context.Context) error {
	_, err := c.played(ctx, http.MethodDelete, "/scenario", nil)
	return err
}

// Played is what is played now.
func (c Control) Played(ctx context.Context) (Played, error) {
	return c.played(ctx, http.MethodGet, "/scenario", nil)
}

func (c Control) played(ctx context.Context, method, path string, body []byte) (Played, error) {
	var p Played
	text, err := c.ask(ctx, method, path, body)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("platform: %w", err)
	}
	return p, nil
}

// scenario hands the control socket's request to the process of the API, with the key that may.
func (s *server) scenario(w http.ResponseWriter, r *http.Request) { s.hand(w, r, nops.ScenarioPath) }

// hand hands a request of the control socket to a path of the API, with the key of the first customer that may everything but be an agent.
func (s *server) hand(w http.ResponseWriter, r *http.Request, path string) {
	target, err := url.Parse("http://platform" + path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	target.RawQuery = r.URL.RawQuery
	req, err := http.NewRequestWithContext(r.Context(), r.Method, target.String(), r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req.Header.Set(nopsapi.KeyHeader, s.seed.Customers[0].AdminKey)
	transport := unixTransport(s.socket())
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		http.Error(w, "the platform's API does not answer (lab fault platform up): "+err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, mostHanded))
	if err == nil && res.StatusCode != http.StatusOK {
		err = refusal(text)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(text)
}

// mostHanded are the bytes of an answer that the control socket hands over.
const mostHanded = nopsapi.MaxRecommendations

// refusal is what the API says of why not.
func refusal(text []byte) error {
	var body nopsapi.ErrorBody
	if err := json.Unmarshal(text, &body); err == nil && body.Error.Message != "" {
		return errors.New(body.Error.Message)
	}
	return errors.New(strings.TrimSpace(string(text)))
}

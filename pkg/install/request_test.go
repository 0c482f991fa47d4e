package install

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// TestRequestsHideCredentials: a request that ends up in a log line or a test's message shows no credential, in no verb, and
// neither does what holds one. Values are shown by path alone: any may be a credential.
func TestRequestsHideCredentials(t *testing.T) {
	const key, secret, env = "4242.0123456789abcdef0123456789abcdef", "wJalrXUtnFEMIcanary", "hunter2-in-a-value"
	r := Request{
		Values:      map[string]any{"nops": map[string]any{"apiKey": key}, "datadog": map[string]any{"env": []any{map[string]any{"name": "X", "value": env}}}},
		Credentials: map[string][]byte{KeyAPI: []byte(key), KeyAMPSecret: []byte(secret)},
		ClusterARN:  "arn:aws:eks:us-east-1:123456789012:cluster/demo",
	}
	type holder struct {
		Name    string
		Request Request
		Pointer *Request
	}
	written := map[string]string{}
	for name, v := range map[string]any{
		"request": r, "pointer": &r, "toggle": ToggleRequest{Component: "heartbeat", Request: r}, "holder": holder{"x", r, &r}, "slice": []Request{r},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			written[name+" "+verb] = fmt.Sprintf(verb, v)
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		written[name+" JSON"] = string(data)
		var text, lines strings.Builder
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&lines, nil)).Info("x", "v", v)
		written[name+" slog text"], written[name+" slog JSON"] = text.String(), lines.String()
	}
	for how, text := range written {
		for _, s := range []string{key, secret, env, fmt.Sprint([]byte(key)), fmt.Sprintf("%#v", []byte(secret))} { //nolint:staticcheck // as a list of bytes is printed
			if strings.Contains(text, s) {
				t.Errorf("%s shows %q:\n%s", how, s, text)
			}
		}
		if !strings.Contains(text, "API_KEY") || !strings.Contains(text, "nops.apiKey") || !strings.Contains(text, "cluster/demo") {
			t.Errorf("%s shows too little:\n%s", how, text)
		}
	}
	if len(written) != 35 {
		t.Errorf("%d ways tried, want 35", len(written))
	}
	// A search that finds nothing proves nothing: the same content without the method is shown.
	type bare Request
	if text := fmt.Sprintf("%+v", bare(r)); !strings.Contains(text, fmt.Sprint([]byte(key))) { //nolint:staticcheck // as a list of bytes is printed
		t.Errorf("a planted credential is not found:\n%s", text)
	}
}

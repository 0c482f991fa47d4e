package cli

import (
	"testing"

	"github.com/nopsctl/nopsctl/internal/iostreams"
)

// TestCredentialsAmongValues: what is one is blanked wherever it would be written. Names of Secrets and of keys in them are none, and are words that
// messages are full of.
func TestCredentialsAmongValues(t *testing.T) {
	r := &iostreams.Redactor{}
	hideCredentials(r, "", map[string]any{
		"nops":                   map[string]any{"apiKey": "canary-1"},
		"customerManagedSecrets": map[string]any{"apiSecretName": "nops-secret", "apiSecretKey": "nops-api-key"},
		"containerRightsizing": map[string]any{"recommender": map[string]any{"store": map[string]any{
			"secretName": "prometheus", "usernameKey": "username", "passwordKey": "password", "tokenKey": "bearer-token", "password": "canary-2",
		}}},
	})
	for text, hidden := range map[string]bool{"canary-1": true, "canary-2": true, "nops-secret": false, "nops-api-key": false, "prometheus": false, "password": false, "bearer-token": false} {
		if got := r.Redact(text) != text; got != hidden {
			t.Errorf("%s is hidden: %t, want %t", text, got, hidden)
		}
	}
}

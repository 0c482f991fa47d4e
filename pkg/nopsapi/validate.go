package nopsapi

import (
	"encoding/json"
	"fmt"
	"regexp"
)

var (
	arnForm = regexp.MustCompile(`^arn:aws(-cn|-us-gov)?:eks:([a-z]{2}(-[a-z]+)+-\d):(\d{12}):cluster/([0-9A-Za-z][A-Za-z0-9_-]{0,99})$`)
	// The published form is "<client id>.<32 hexadecimal digits>", but published examples hold other letters too
	// ("123.aaaa4432454ccccb5a2280e755fdzzzz"): no key is refused for what the platform alone can judge.
	keyForm    = regexp.MustCompile(`^\d{1,8}\.[0-9a-zA-Z]{32}$`)
	clientForm = regexp.MustCompile(`^\d{1,8}$`)
)

// ARN is an EKS cluster's ARN taken apart.
type ARN struct{ Region, Account, Name string }

// ParseARN reads arn:aws:eks:<region>:<account>:cluster/<name>.
func ParseARN(arn string) (ARN, error) {
	m := arnForm.FindStringSubmatch(arn)
	if m == nil {
		return ARN{}, fmt.Errorf("cluster ARN %q: expected arn:aws:eks:<region>:<account>:cluster/<name>", clip(arn))
	}
	return ARN{Region: m[2], Account: m[4], Name: m[5]}, nil
}

// ValidateKey says what is wrong with the form of an API key, without repeating it.
func ValidateKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("API key is empty")
	case !keyForm.MatchString(key):
		return fmt.Errorf("API key has %d characters in an unexpected form: expected <client id>.<32 hexadecimal digits>", len(key))
	}
	return nil
}

// ValidateClientID says what is wrong with a customer's ID, the part of its keys before the dot.
func ValidateClientID(id string) error {
	if !clientForm.MatchString(id) {
		return fmt.Errorf("client ID %q: expected 1 to 8 digits", clip(id))
	}
	return nil
}

// Validate says what is wrong with the request for a key.
func (k NewAPIKey) Validate() error {
	switch {
	case len(k.Scopes) == 0:
		return fmt.Errorf("scopes is empty: a key that may nothing is of no use")
	case len(k.Name) > MaxKeyName:
		return fmt.Errorf("name has %d bytes, at most %d are allowed", len(k.Name), MaxKeyName)
	}
	for _, scope := range k.Scopes {
		switch scope {
		case ScopeAdmin, ScopeInstall, ScopeRead:
		case ScopeAgent:
			return fmt.Errorf("scope agent: agent keys belong to a cluster, POST /clusters/{arn}/agent-key makes one")
		default:
			return fmt.Errorf("unknown scope %q", clip(string(scope)))
		}
	}
	return nil
}

// Validate says what is wrong with a heartbeat. SentAt is not looked at: it is set anew for each try to send. States that are
// not known here are nothing wrong: an agent may be newer than the platform, and what else the beat tells is worth having.
func (h Heartbeat) Validate() error {
	if err := readable(h.SchemaVersion, HeartbeatSchema); err != nil {
		return err
	}
	switch {
	case h.BootID == "":
		return fmt.Errorf("boot_id is empty")
	case len(h.BootID) > MaxBootID:
		return fmt.Errorf("boot_id has %d bytes, at most %d are allowed", len(h.BootID), MaxBootID)
	case h.Seq == 0:
		return fmt.Errorf("seq is 0: the first beat of a boot is 1")
	case h.ObservedAt.IsZero():
		return fmt.Errorf("observed_at is missing")
	case len(h.Components) > MaxComponents:
		return fmt.Errorf("components: %d, at most %d are allowed", len(h.Components), MaxComponents)
	}
	for i, c := range h.Components {
		if c.Name == "" {
			return fmt.Errorf("component %d has no name", i)
		}
		if c.State == "" {
			return fmt.Errorf("component %s has no state", clip(c.Name))
		}
	}
	if h.Pipeline != nil && h.Pipeline.State == "" {
		return fmt.Errorf("pipeline has no state")
	}
	return nil
}

// readable says whether a platform whose newest schema of heartbeats is known can read one.
func readable(schema, newest int) error {
	switch {
	case schema < 1:
		return fmt.Errorf("schema_version %d: the first is 1", schema)
	case schema > newest:
		return fmt.Errorf("schema_version %d: this platform reads up to %d; the agent is newer than the platform", schema, newest)
	}
	return nil
}

// Validate says what is wrong with an observation.
func (o Observation) Validate() error {
	switch {
	case o.Nonce == "":
		return fmt.Errorf("nonce is empty")
	case o.From != FromHere && o.From != FromCluster:
		return fmt.Errorf("from %q: expected %q or %q", clip(o.From), FromHere, FromCluster)
	}
	return nil
}

// Validate says whether an answer can be what a key is.
func (w WhoAmI) Validate() error {
	if w.KeyID == "" || w.CustomerID == "" {
		return fmt.Errorf("key_id or customer_id is empty")
	}
	return nil
}

// Validate says whether an answer can be an install configuration. A customer without a workspace has an empty one.
func (c InstallConfig) Validate() error {
	if c.ClusterARN == "" {
		return fmt.Errorf("cluster_arn is empty")
	}
	return nil
}

// Validate says whether an answer can be a key.
func (k AgentKey) Validate() error { return ValidateKey(k.Key) }

// Validate says whether an answer can be a key.
func (k APIKeyCreated) Validate() error { return ValidateKey(k.Key) }

// Validate says whether an answer can be a test.
func (t ConnectivityTest) Validate() error {
	if t.ID == "" || t.Nonce == "" {
		return fmt.Errorf("id or nonce is empty")
	}
	return nil
}

// clip keeps foreign input from filling an error.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// Decode reads one JSON document and refuses trailing data. Unknown fields are allowed: a newer peer may send more.
func Decode(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("JSON: %w", err)
	}
	return nil
}

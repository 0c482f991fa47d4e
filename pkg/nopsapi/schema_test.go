package nopsapi

import "testing"

// TestReadableSchemas looks from both sides of an upgrade: agents follow the platform, or go ahead of it.
func TestReadableSchemas(t *testing.T) {
	for _, tt := range []struct {
		name, reason   string
		schema, newest int
		ok             bool
	}{
		{"the same", "", 2, 2, true},
		{"an older agent", "it is upgraded later than the platform", 1, 2, true},
		{"the oldest agent", "none is ever left out", 1, 7, true},
		{"a newer agent", "an older platform must not guess", 3, 2, false},
		{"none", "nobody knows what it means", 0, 2, false},
		{"nonsense", "", -1, 2, false},
	} {
		if err := readable(tt.schema, tt.newest); (err == nil) != tt.ok {
			t.Errorf("%s (%s): %v", tt.name, tt.reason, err)
		}
	}
}

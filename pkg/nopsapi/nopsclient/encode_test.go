package nopsclient

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// TestLimitsOfBodies: what a path takes compressed is the path's own, what anything may have unpacked is not.
func TestLimitsOfBodies(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, nopsapi.MaxHeartbeatCompressed*2)
	for i := range noise {
		noise[i] = byte('!' + rnd.IntN(90))
	}
	for _, tt := range []struct {
		name, reason string
		body         string
		packed       int
		plain        int
		wrong        string
	}{
		{"plain", "a small one", "x", 0, 0, ""},
		{"beat", "a small one", "x", nopsapi.MaxHeartbeatCompressed, 0, ""},
		{"large beat", "a beat's limit", string(noise), nopsapi.MaxHeartbeatCompressed, 0, "bytes compressed, the contract allows 16384"},
		{"as large, of a path that takes more", "a beat's limit is a beat's", string(noise), nopsapi.MaxBody, 0, ""},
		{"huge", "whatever the path", strings.Repeat("x", nopsapi.MaxBody), 0, 0, "the contract allows 1048576"},
		{"huge, though small when compressed", "it would be unpacked", strings.Repeat("x", nopsapi.MaxBody), nopsapi.MaxBody, 0, "the contract allows 1048576"},
		{"huge, of a path that takes more", "an inventory of many nodes", strings.Repeat("x", nopsapi.MaxBody), nopsapi.MaxBody, nopsapi.MaxInventory, ""},
		{"larger than that", "each path has its end", strings.Repeat("x", nopsapi.MaxInventory), nopsapi.MaxBody, nopsapi.MaxInventory, "the contract allows 4194304"},
	} {
		data, err := encode(tt.body, tt.packed, tt.plain)
		if tt.wrong == "" && (err != nil || len(data) == 0) || tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong)) {
			t.Errorf("%s (%s): %d bytes, %v", tt.name, tt.reason, len(data), err)
		}
	}
}

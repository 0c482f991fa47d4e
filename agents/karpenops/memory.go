package karpenops

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
)

// memory is what outlives the process: what the planner remembers, and which facts were the last ones.
type memory struct {
	Plan        plan.Memory `json:"plan"`
	Market      seenFact    `json:"market"`
	Commitments seenFact    `json:"commitments"`
}

const (
	// maxMemory is what it may take of the ConfigMap; the ledger and the status are in there, too.
	maxMemory = 380 << 10 // bytes, packed; in base64 a third more
	// maxUnpacked bounds what is read back.
	maxUnpacked = 16 << 20
)

// pack makes the memory small. Where it is too large for the ConfigMap the series of samples go first, half of them at a time, for they are learnt anew within hours;
// the gates, which carry what was decided, stay.
func (m memory) pack() ([]byte, error) {
	for {
		var b bytes.Buffer
		zip, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			return nil, fmt.Errorf("packing the memory: %w", err)
		}
		if err := json.NewEncoder(zip).Encode(m); err != nil {
			return nil, fmt.Errorf("packing the memory: %w", err)
		}
		if err := zip.Close(); err != nil {
			return nil, fmt.Errorf("packing the memory: %w", err)
		}
		if b.Len() <= maxMemory {
			return b.Bytes(), nil
		}
		if len(m.Plan.Series) == 0 {
			return nil, fmt.Errorf("packing the memory: %d bytes, at most %d are kept", b.Len(), maxMemory)
		}
		keys := slices.Sorted(maps.Keys(m.Plan.Series))
		kept := map[string]plan.Series{}
		for _, k := range keys[:len(keys)/2] {
			kept[k] = m.Plan.Series[k]
		}
		m.Plan.Series = kept
	}
}

// unpackMemory reads it back. What cannot be read is forgotten: the agent learns anew, and holds gates open meanwhile.
func unpackMemory(packed []byte) (memory, error) {
	var m memory
	if len(packed) == 0 {
		return m, nil
	}
	raw, err := unpack(packed, maxUnpacked)
	if err != nil {
		return memory{}, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return memory{}, fmt.Errorf("reading the memory: %w", err)
	}
	return m, nil
}

package karpenfeeder

import (
	"slices"
	"time"
)

// Memory is what one run hands to the next.
type Memory struct {
	Schema   int                `json:"schema"` // 1
	Seq      uint64             `json:"seq"`    // of the last documents
	Samples  []Sample           `json:"samples,omitempty"`
	Scores   map[string]Scores  `json:"scores,omitempty"`   // by family
	Products map[string]Product `json:"products,omitempty"` // by instance type
}

// Scores are the placement scores of a family.
type Scores struct {
	At     int64            `json:"at"` // unix seconds
	ByZone map[string]int32 `json:"by_zone"`
}

// Product is what the price list has of a type.
type Product struct {
	At   int64    `json:"at"` // unix seconds
	Text []string `json:"text"`
}

// whole makes what was read fit for use: of another schema nothing but the number is taken over, which must not fall.
func (m Memory) whole() Memory {
	if m.Schema != 1 {
		m = Memory{Schema: 1, Seq: m.Seq}
	}
	if m.Scores == nil {
		m.Scores = map[string]Scores{}
	}
	if m.Products == nil {
		m.Products = map[string]Product{}
	}
	return m
}

// within says whether what was asked at a moment is fresh enough. What lies ahead is not: the clock was set back.
func within(at int64, now time.Time, age time.Duration) bool {
	since := now.Sub(time.Unix(at, 0))
	return since >= 0 && since < age
}

// remember adds a sample and lets go of what is older than the window.
func (m *Memory) remember(s Sample, window time.Duration) {
	m.Samples = append(m.Samples, s)
	first := s.At - int64(window/time.Second)
	m.Samples = slices.DeleteFunc(m.Samples, func(old Sample) bool { return old.At < first })
}

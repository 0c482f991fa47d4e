package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/golang/snappy"
)

// A receiver takes remote writes and counts them.
type receiver struct {
	mu       sync.Mutex
	bytes    int64 // of request bodies, as they are on the wire
	samples  int64
	series   map[string]series // by their labels
	ups      map[string]int    // scrapes of a target that went well
	failures []string
}

// series is what is asked about one of them.
type series struct {
	name, instance string
	pod            string
}

func newReceiver() *receiver { return &receiver{series: map[string]series{}, ups: map[string]int{}} }

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err == nil {
		err = r.take(req.Header.Get("Content-Encoding"), body)
	}
	if err != nil {
		r.mu.Lock()
		r.failures = append(r.failures, err.Error())
		r.mu.Unlock()
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) take(encoding string, body []byte) error {
	if encoding != "snappy" {
		return fmt.Errorf("a write is encoded as %q, want snappy", encoding)
	}
	message, err := snappy.Decode(nil, body)
	if err != nil {
		return fmt.Errorf("unpack a write: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes += int64(len(body))
	return fields(message, func(number uint64, value []byte) error {
		if number != 1 {
			return nil
		}
		return r.takeSeries(value)
	})
}

// takeSeries reads a prometheus.TimeSeries: labels are field 1, samples field 2.
func (r *receiver) takeSeries(message []byte) error {
	var key strings.Builder
	labels := map[string]string{}
	samples := 0
	up := false
	err := fields(message, func(number uint64, value []byte) error {
		switch number {
		case 1:
			var pair [3]string
			if err := fields(value, func(number uint64, text []byte) error {
				if number < 3 {
					pair[number] = string(text)
				}
				return nil
			}); err != nil {
				return err
			}
			labels[pair[1]] = pair[2]
			fmt.Fprintf(&key, "%s=%q,", pair[1], pair[2])
		case 2:
			samples++
			return fields(value, func(number uint64, bits []byte) error {
				up = up || number == 1 && len(bits) == 8 && binary.LittleEndian.Uint64(bits) == 0x3ff0000000000000
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.samples += int64(samples)
	s := series{name: labels["__name__"], instance: labels["instance"], pod: labels["pod"]}
	r.series[key.String()] = s
	if s.name == "up" && up {
		r.ups[s.instance] += samples
	}
	return nil
}

// scraped says whether every target was scraped at least so often.
func (r *receiver) scraped(targets, times int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failures) > 0 {
		return errors.New(r.failures[0])
	}
	enough := 0
	for _, n := range r.ups {
		if n >= times {
			enough++
		}
	}
	if enough < targets {
		return fmt.Errorf("%d of %d targets were scraped %d times", enough, targets, times)
	}
	return nil
}

var errTruncated = errors.New("a write is truncated")

// fields visits the fields of a message in the encoding of protocol buffers.
func fields(message []byte, visit func(number uint64, value []byte) error) error {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return errTruncated
		}
		message = message[n:]
		var length int
		switch tag & 7 {
		case 0:
			_, length = binary.Uvarint(message)
		case 1:
			length = 8
		case 2:
			size, n := binary.Uvarint(message)
			if n <= 0 || size > uint64(len(message)-n) {
				return errTruncated
			}
			message, length = message[n:], int(size)
		case 5:
			length = 4
		default:
			return fmt.Errorf("a write has a field of the unknown type %d", tag&7)
		}
		if length < 0 || length > len(message) || length == 0 && tag&7 == 0 {
			return errTruncated
		}
		if err := visit(tag>>3, message[:length]); err != nil {
			return err
		}
		message = message[length:]
	}
	return nil
}

package gate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/golang/snappy"

	"github.com/nopsctl/nopsctl/internal/sigv4"
)

// Reasons of refusal of a write.
const (
	Encoding  = "not_snappy"
	TooLarge  = "too_large"
	Invalid   = "invalid_body"
	TooOld    = "too_old"
	TooMany   = "too_many_labels"
	RateLimit = "rate_limited"
)

// written is what a write holds.
type written struct {
	series, samples int
	tooOld, labels  int // samples left out for their age, series left out for their labels
}

// unpack checks how a write is packed and returns its message.
func unpack(r *http.Request, body []byte, limit int64) ([]byte, error) {
	if got := r.Header.Get("Content-Encoding"); got != "snappy" {
		return nil, refuse(http.StatusBadRequest, "ValidationException", Encoding, "Content-Encoding %q is not supported, expected snappy", got)
	}
	size, err := snappy.DecodedLen(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "ValidationException", Encoding, "the body is not snappy: %v", err)
	}
	if int64(size) > limit {
		return nil, refuse(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", TooLarge, "the write has %d bytes unpacked, the limit is %d", size, limit)
	}
	message, err := snappy.Decode(nil, body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "ValidationException", Encoding, "the body is not snappy: %v", err)
	}
	return message, nil
}

func refuse(status int, kind, reason, format string, args ...any) error {
	return &sigv4.DeniedError{Status: status, Type: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Fields of prometheus.WriteRequest and what is in it.
const (
	fieldSeries    = 1
	fieldLabel     = 1
	fieldSample    = 2
	fieldTimestamp = 2
)

// screen leaves out of a remote-write message what the service refuses, samples before a time and series with too many
// labels, and keeps the rest as it is, byte for byte: like the real service, one bad sample does not cost its neighbours.
func screen(message []byte, oldest time.Time, maxLabels int) ([]byte, written, error) {
	var w written
	kept := make([]byte, 0, len(message))
	err := fields(message, func(number uint64, value, raw []byte) error {
		if number != fieldSeries {
			kept = append(kept, raw...)
			return nil
		}
		series, samples, err := screenSeries(value, oldest, maxLabels, &w)
		if err != nil {
			return err
		}
		if samples > 0 {
			w.series++
			w.samples += samples
			kept = binary.AppendUvarint(kept, fieldSeries<<3|wireBytes)
			kept = binary.AppendUvarint(kept, uint64(len(series)))
			kept = append(kept, series...)
		}
		return nil
	})
	return kept, w, err
}

func screenSeries(series []byte, oldest time.Time, maxLabels int, w *written) ([]byte, int, error) {
	kept := make([]byte, 0, len(series))
	labels, samples := 0, 0
	err := fields(series, func(number uint64, value, raw []byte) error {
		switch number {
		case fieldLabel:
			labels++
		case fieldSample:
			at, err := timestamp(value)
			if err != nil {
				return err
			}
			if at.Before(oldest) {
				w.tooOld++
				return nil
			}
			samples++
		}
		kept = append(kept, raw...)
		return nil
	})
	if labels > maxLabels {
		w.labels++
		return nil, 0, err
	}
	return kept, samples, err
}

func timestamp(sample []byte) (time.Time, error) {
	var millis uint64
	err := fields(sample, func(number uint64, value, _ []byte) error {
		if number != fieldTimestamp {
			return nil
		}
		n, size := binary.Uvarint(value)
		if size <= 0 {
			return errors.New("a sample's timestamp is damaged")
		}
		millis = n
		return nil
	})
	return time.UnixMilli(int64(millis)), err
}

// Wire types of protocol buffers.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

var errTruncated = errors.New("the message is truncated")

// fields visits the fields of a message: number, value (without the length of a byte string) and the whole as it is.
func fields(message []byte, visit func(number uint64, value, raw []byte) error) error {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 || tag>>3 == 0 {
			return errors.New("a field's tag is damaged")
		}
		from, to := n, n
		switch tag & 7 {
		case wireVarint:
			_, size := binary.Uvarint(message[n:])
			if size <= 0 {
				return errTruncated
			}
			to += size
		case wire64:
			to += 8
		case wire32:
			to += 4
		case wireBytes:
			length, size := binary.Uvarint(message[n:])
			if size <= 0 || length > uint64(len(message)) {
				return errTruncated
			}
			from += size
			to = from + int(length)
		default:
			return fmt.Errorf("a field has the unknown wire type %d", tag&7)
		}
		if to > len(message) {
			return errTruncated
		}
		if err := visit(tag>>3, message[from:to], message[:to]); err != nil {
			return err
		}
		message = message[to:]
	}
	return nil
}

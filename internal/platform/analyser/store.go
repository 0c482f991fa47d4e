package analyser

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Series is one of an answer. What an instant query gives is one point.
type Series struct {
	Labels Labels `json:"metric"`
	Points Points `json:"-"`
}

// Labels are those that are asked for here.
type Labels struct {
	Pod        string `json:"pod"`
	Container  string `json:"container"`
	OwnerKind  string `json:"owner_kind"`
	OwnerName  string `json:"owner_name"`
	ReplicaSet string `json:"replicaset"`
	Job        string `json:"job_name"`
}

// Point is a value at a time, in Unix milliseconds.
type Point struct {
	At    int64
	Value float64
}

// Points are those of a series, by time. What is no usage (NaN, infinite, negative) is left out.
type Points []Point

// UnmarshalJSON reads [[1435781451.781,"1"],…], or one such pair. A day of a container has 1440 of them.
func (p *Points) UnmarshalJSON(text []byte) error {
	*p = (*p)[:0]
	for len(text) > 0 {
		end := bytes.IndexByte(text, ']')
		if end < 0 {
			return errors.New("points do not end")
		}
		pair := bytes.TrimLeft(text[:end], "[, \n")
		text = bytes.TrimLeft(text[end+1:], "], \n")
		if len(pair) == 0 {
			continue
		}
		when, what, is := bytes.Cut(pair, []byte(","))
		at, err := strconv.ParseFloat(string(bytes.TrimSpace(when)), 64)
		value, err2 := strconv.ParseFloat(string(bytes.Trim(what, `" `)), 64)
		if !is || err != nil || err2 != nil && !errors.Is(err2, strconv.ErrRange) {
			return fmt.Errorf("point %.40q: expected a time and a value", pair)
		}
		if value >= 0 && !math.IsInf(value, 0) {
			*p = append(*p, Point{int64(math.Round(at * 1000)), value})
		}
	}
	return nil
}

// Store answers queries. Each series is handed over as it is read, and may not be kept: an answer is never in memory as a whole.
type Store interface {
	Instant(ctx context.Context, query string, at time.Time, take func(Series) error) error
	Range(ctx context.Context, query string, start, end time.Time, step time.Duration, take func(Series) error) error
}

const (
	queryTimeout = 5 * time.Minute
	maxAnswer    = 1 << 30 // bytes; a day of a batch of pods has some twenty million
	maxRefusal   = 4 << 10
)

// Reader is a store that speaks Prometheus's HTTP API: Prometheus, VictoriaMetrics, Amazon Managed Service for Prometheus.
type Reader struct {
	Address string       // what comes before /api/v1
	Client  *http.Client // nil: http.DefaultClient. It signs requests where the store wants that.
}

var _ Store = (*Reader)(nil)

// Instant implements Store.
func (r *Reader) Instant(ctx context.Context, query string, at time.Time, take func(Series) error) error {
	return r.ask(ctx, "query", url.Values{"query": {query}, "time": {unix(at)}}, take)
}

// Range implements Store.
func (r *Reader) Range(ctx context.Context, query string, start, end time.Time, step time.Duration, take func(Series) error) error {
	return r.ask(ctx, "query_range", url.Values{"query": {query}, "start": {unix(start)}, "end": {unix(end)}, "step": {seconds(step)}}, take)
}

func unix(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) + "s" }

// StoreError is a refusal of a store. One that is not temporary will be given again.
type StoreError struct {
	Host    string
	Status  int // of HTTP; 0: there was no answer, or not all of it
	Message string
	Err     error
}

// Error implements error.
func (e *StoreError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("the metrics store at %s: %v", e.Host, e.Err)
	case e.Message == "":
		return fmt.Sprintf("the metrics store at %s answers HTTP %d", e.Host, e.Status)
	}
	return fmt.Sprintf("the metrics store at %s answers HTTP %d: %s", e.Host, e.Status, e.Message)
}

// Unwrap gives what lies below.
func (e *StoreError) Unwrap() error { return e.Err }

// Temporary says whether asking again may help.
func (e *StoreError) Temporary() bool {
	return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status/100 == 5
}

// tooLarge says whether a shorter question may be answered.
func tooLarge(err error) bool {
	var refused *StoreError
	return errors.As(err, &refused) && (refused.Status == http.StatusUnprocessableEntity || refused.Status == http.StatusRequestEntityTooLarge)
}

// ask posts a question: the form may be longer than addresses may be.
func (r *Reader) ask(ctx context.Context, what string, form url.Values, take func(Series) error) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	base, err := url.Parse(r.Address)
	if err != nil || base.Host == "" {
		return errors.New("the metrics store's address is none")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base.JoinPath("api/v1", what).String(), strings.NewReader(form.Encode()))
	if err != nil {
		return &StoreError{Host: base.Host, Err: err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := r.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return &StoreError{Host: base.Host, Err: err}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
		var said struct {
			Error string `json:"error"`
		}
		_ = json.Unmarshal(text, &said) // what is no JSON says nothing
		return &StoreError{Host: base.Host, Status: res.StatusCode, Message: said.Error}
	}
	err = read(&io.LimitedReader{R: res.Body, N: maxAnswer}, take)
	var mine *takeError
	switch {
	case errors.As(err, &mine):
		return mine.error
	case err != nil:
		return &StoreError{Host: base.Host, Err: fmt.Errorf("reading the answer: %w", err)}
	}
	return nil
}

// takeError is one of whoever takes the series: the store did nothing wrong.
type takeError struct{ error }

func (e *takeError) Unwrap() error { return e.error }

// read reads {"status":"success","isPartial":false,"data":{"resultType":…,"result":[…]}} series by series. An answer that is only a part
// of what the store has is none: what is missing may be the peaks.
func read(from io.Reader, take func(Series) error) error {
	d := json.NewDecoder(from)
	status := ""
	var kept Points
	err := fields(d, func(name string) error {
		switch name {
		case "status":
			return d.Decode(&status)
		case "isPartial":
			var partial bool
			if err := d.Decode(&partial); err != nil || !partial {
				return err
			}
			return errors.New("it is only a part of what there is")
		case "data":
			return fields(d, func(name string) error {
				if name != "result" {
					return skip(d)
				}
				return elements(d, func() error {
					one := struct {
						Series
						Value  Points `json:"value"`
						Values Points `json:"values"`
					}{Values: kept}
					if err := d.Decode(&one); err != nil {
						return err
					}
					if kept = one.Values; len(one.Values) == 0 {
						one.Values = one.Value
					}
					one.Points = one.Values
					if err := take(one.Series); err != nil {
						return &takeError{err}
					}
					return nil
				})
			})
		}
		return skip(d)
	})
	if err == nil && status != "success" {
		err = fmt.Errorf("status %q", status)
	}
	return err
}

func skip(d *json.Decoder) error {
	var ignored json.RawMessage
	return d.Decode(&ignored)
}

func fields(d *json.Decoder, field func(name string) error) error {
	return within(d, '{', func() error {
		token, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		return field(name)
	})
}

func elements(d *json.Decoder, element func() error) error { return within(d, '[', element) }

func within(d *json.Decoder, open json.Delim, each func() error) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	if token == nil { // null has nothing in it
		return nil
	}
	if token != open {
		return fmt.Errorf("%v where %v is expected", token, open)
	}
	for d.More() {
		if err := each(); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

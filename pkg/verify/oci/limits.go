package oci

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Limits bound what one artifact may cost, however a registry behaves. Zero means the default of each.
type Limits struct {
	Pages      int           // pages of referrers; 20
	Referrers  int           // manifests that hang on the artifact; 200
	Candidates int           // signatures that are read and handed on; 64
	Manifest   int64         // bytes of one manifest, configuration or page; 4 MiB
	Blob       int64         // bytes of one signature; 1 MiB
	Total      int64         // bytes of all answers, their headers included; 64 MiB
	Requests   int           // requests, retries and tokens included; 600
	Parallel   int           // requests at the same time; 16
	Time       time.Duration // 30 s
}

func (l Limits) orDefault() Limits {
	or(&l.Pages, 20)
	or(&l.Referrers, 200)
	or(&l.Candidates, 64)
	or(&l.Manifest, 4<<20)
	or(&l.Blob, 1<<20)
	or(&l.Total, 64<<20)
	or(&l.Requests, 600)
	or(&l.Parallel, 16)
	or(&l.Time, 30*time.Second)
	return l
}

func or[T int | int64 | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// budget is what is left for one artifact.
type budget struct {
	bytes, requests atomic.Int64
	limits          Limits
}

type budgetKey struct{}

// bound starts a budget, unless the context already has one: what is done for one artifact shares it.
func (l Limits) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Value(budgetKey{}).(*budget); ok {
		return ctx, func() {}
	}
	b := &budget{limits: l}
	b.bytes.Store(l.Total)
	b.requests.Store(int64(l.Requests))
	return context.WithTimeout(context.WithValue(ctx, budgetKey{}, b), l.Time)
}

// share gives a step its part of the time that is left, so that one stalled answer leaves time for what follows it.
func share(ctx context.Context, parts int64) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(parts))
}

// bounded charges answers to the budget of the request's context. Without one, as for the layers that a copy moves, nothing
// is charged.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	left, ok := req.Context().Value(budgetKey{}).(*budget)
	if !ok {
		return b.next.RoundTrip(req)
	}
	if left.requests.Add(-1) < 0 {
		return nil, failf(verdict.LimitReached, nil, "takes more than %d requests for one artifact", left.limits.Requests)
	}
	res, err := b.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	var head int64
	for name, values := range res.Header {
		for _, v := range values {
			head += int64(len(name) + len(v))
		}
	}
	if err := left.charge(head); err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	res.Body = &charged{res.Body, left}
	return res, nil
}

func (b *budget) charge(n int64) error {
	if b.bytes.Add(-n) < 0 {
		return failf(verdict.LimitReached, nil, "answers with more than %s for one artifact", size(b.limits.Total))
	}
	return nil
}

type charged struct {
	io.ReadCloser

	left *budget
}

// Read implements io.Reader.
func (c *charged) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if over := c.left.charge(int64(n)); over != nil {
		return 0, over
	}
	return n, err
}

// readUpTo reads all of an answer, and refuses one that is longer.
func readUpTo(r io.Reader, limit int64, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, failf(verdict.LimitReached, nil, "serves %s of more than %s", what, size(limit))
	}
	return data, nil
}

// problem is a reason with its text, on the way up to where the registry's name is put before it.
type problem struct {
	reason verdict.Reason
	text   string
	err    error
}

func failf(reason verdict.Reason, err error, format string, args ...any) error {
	return &problem{reason, sprintf(format, args...), err}
}

// Error implements error.
func (p *problem) Error() string { return p.text }

// Unwrap implements errors.Unwrap.
func (p *problem) Unwrap() error { return p.err }

// reasonOf is the reason inside an error, or none.
func reasonOf(err error) verdict.Reason {
	var p *problem
	if errors.As(err, &p) {
		return p.reason
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Finding.Reason
	}
	return ""
}

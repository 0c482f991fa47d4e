package nopsclient

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Polled is the answer to a poll.
type Polled[T any] struct {
	// Unchanged: it is still what the ETag that was given stands for. Message is empty then.
	Unchanged bool
	Message   T
	// ETag is what to give the next time; of a document that was not taken, give the one before.
	ETag string
}

// Market polls what is known of prices and availability. etag is that of the document that the caller has; "" is none. What comes back
// is valid in itself; whether it is of this time (FactHeader.CheckAt) and not a replay (Seq) is the caller's to see.
func (c *Client) Market(ctx context.Context, arn, etag string) (Polled[nopsapi.Market], error) {
	return poll[nopsapi.Market](ctx, c, nopsapi.PathMarket(arn), etag, nopsapi.MaxMarket)
}

// Commitments polls what is committed to, likewise.
func (c *Client) Commitments(ctx context.Context, arn, etag string) (Polled[nopsapi.Commitments], error) {
	return poll[nopsapi.Commitments](ctx, c, nopsapi.PathCommitments(arn), etag, 0)
}

// poll asks whether something changed. Nothing is remembered here: a market is large, and whoever polls has it.
func poll[T any](ctx context.Context, c *Client, path, etag string, most int) (Polled[T], error) {
	message, got, err := exchange[T](ctx, c, call{method: http.MethodGet, path: path, known: &etag, answer: most})
	return Polled[T]{Unchanged: got.unchanged, Message: message, ETag: got.etag}, err
}

// PublishMarket replaces the market of a cluster. One whose number does not rise is refused: KindConflict.
func (c *Client) PublishMarket(ctx context.Context, arn string, m nopsapi.Market) (nopsapi.KarpenterAck, error) {
	m.InstanceTypes, m.Offerings = list(m.InstanceTypes), list(m.Offerings)
	return publish[nopsapi.KarpenterAck](ctx, c, http.MethodPut, nopsapi.PathMarket(arn), m, nopsapi.MaxMarket)
}

// PublishCommitments replaces the commitments of a cluster, likewise.
func (c *Client) PublishCommitments(ctx context.Context, arn string, all nopsapi.Commitments) (nopsapi.KarpenterAck, error) {
	all.Commitments = list(all.Commitments)
	return publish[nopsapi.KarpenterAck](ctx, c, http.MethodPut, nopsapi.PathCommitments(arn), all, 0)
}

// ReportInventory delivers what the cluster has.
func (c *Client) ReportInventory(ctx context.Context, arn string, all nopsapi.KarpenterInventory) (nopsapi.KarpenterAck, error) {
	all.APIVersions, all.Pools = list(all.APIVersions), list(all.Pools)
	return publish[nopsapi.KarpenterAck](ctx, c, http.MethodPut, nopsapi.PathKarpenterInventory(arn), all, nopsapi.MaxInventory)
}

// SendRecords delivers decisions, at most nopsapi.MaxRecords. Their IDs make it idempotent: what was delivered before may be delivered again.
func (c *Client) SendRecords(ctx context.Context, arn string, records nopsapi.KarpenterRecords) (nopsapi.KarpenterAck, error) {
	return publish[nopsapi.KarpenterAck](ctx, c, http.MethodPost, nopsapi.PathKarpenterRecords(arn), records, 0)
}

// list is a list where the contract wants one.
func list[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

// publish sends a message, gzip. One that the platform would refuse is not sent.
func publish[T any](ctx context.Context, c *Client, method, path string, message interface{ Validate() error }, most int) (T, error) {
	if err := message.Validate(); err != nil {
		var none T
		return none, &Error{Kind: KindRefused, Host: c.host(), Code: nopsapi.CodeInvalidRequest, Message: c.line(method + " " + path + ": not sent: " + err.Error()), Err: err}
	}
	ack, _, err := exchange[T](ctx, c, call{method: method, path: path, body: message, packed: nopsapi.MaxBody, plain: most})
	return ack, err
}

// Inventory is what karpenops of a cluster told last.
func (c *Client) Inventory(ctx context.Context, arn string) (nopsapi.KarpenterInventory, error) {
	none := "" // as large as it is, it is not remembered
	all, _, err := exchange[nopsapi.KarpenterInventory](ctx, c, call{method: http.MethodGet, path: nopsapi.PathKarpenterInventory(arn), known: &none, answer: nopsapi.MaxInventory})
	return all, err
}

// Records lists what karpenops of a cluster decided since then, by time.
func (c *Client) Records(ctx context.Context, arn string, since time.Time) ([]nopsapi.KarpenterRecord, error) {
	query := url.Values{}
	if !since.IsZero() {
		query.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	var all []nopsapi.KarpenterRecord
	for {
		page, err := get[nopsapi.KarpenterRecordList](ctx, c, nopsapi.PathKarpenterRecords(arn)+"?"+query.Encode())
		if err != nil {
			return nil, err
		}
		all = append(all, page.Records...)
		if page.Next == "" {
			return all, nil
		}
		if len(page.Records) == 0 || page.Next == query.Get("after") {
			return all, &Error{Kind: KindProtocol, Host: c.host(), Message: "the list of records does not end"}
		}
		query.Set("after", page.Next)
	}
}

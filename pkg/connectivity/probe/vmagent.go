package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxMetrics bounds what is read of vmagent's metrics page (about 50 KiB in practice).
const maxMetrics = 4 << 20

// Counters is one look at vmagent's own metrics.
type Counters struct {
	At               time.Time
	RequestsByStatus map[string]uint64 // "2xx", "403" …, StatusError, none of them zero
	QueueBytes       uint64
	DroppedPackets   uint64
	Retries          uint64
	TargetsUp        int
	TargetsTotal     int
	UptimeSeconds    uint64 // 0: not told
}

// ErrNotVmagent is returned for a page that holds no metric of vmagent's remote write.
var ErrNotVmagent = errors.New("the page holds no remote-write metric of vmagent")

// ParseVmagent reads vmagent's metrics page. Lines it does not know are ignored, whatever they hold.
func ParseVmagent(r io.Reader) (Counters, error) {
	c := Counters{RequestsByStatus: map[string]uint64{}}
	known := 0
	lines := bufio.NewScanner(io.LimitReader(r, maxMetrics))
	lines.Buffer(make([]byte, 0, 4<<10), 256<<10)
	for lines.Scan() {
		line := lines.Text()
		// Nearly every line of the page is something else.
		if !strings.HasPrefix(line, "vmagent_remotewrite_") && !strings.HasPrefix(line, "vm_promscrape_targets") && !strings.HasPrefix(line, "vm_app_uptime_seconds") {
			continue
		}
		name, labels, value, ok := parseSample(line)
		if !ok {
			continue
		}
		switch name {
		case "vmagent_remotewrite_requests_total":
			code := strings.ToLower(labels["status_code"])
			if code == "" || len(code) > 3 {
				continue
			}
			known++
			add(c.RequestsByStatus, code, value)
		case "vmagent_remotewrite_errors_total":
			known++
			add(c.RequestsByStatus, StatusError, value)
		case "vmagent_remotewrite_pending_data_bytes":
			known++
			c.QueueBytes = sum(c.QueueBytes, value)
		case "vmagent_remotewrite_packets_dropped_total":
			known++
			c.DroppedPackets = sum(c.DroppedPackets, value)
		case "vmagent_remotewrite_retries_count_total":
			known++
			c.Retries = sum(c.Retries, value)
		case "vm_app_uptime_seconds":
			c.UptimeSeconds = value
		case "vm_promscrape_targets":
			n := int(min(value, math.MaxInt32))
			switch labels["status"] {
			case "up":
				c.TargetsUp += n
				c.TargetsTotal += n
			case "down":
				c.TargetsTotal += n
			}
		}
	}
	if err := lines.Err(); err != nil {
		return c, fmt.Errorf("reading vmagent's metrics: %w", err)
	}
	if known == 0 {
		return c, ErrNotVmagent
	}
	return c, nil
}

// add leaves zeros out: vmagent shows a zero for what never happened.
func add(m map[string]uint64, key string, value uint64) {
	if value == 0 {
		return
	}
	if len(m) < 64 || m[key] > 0 { // a page cannot make us remember without bound
		m[key] = sum(m[key], value)
	}
}

func sum(a, b uint64) uint64 {
	if s := a + b; s >= a {
		return s
	}
	return math.MaxUint64
}

// parseSample splits one line of the text exposition format. Values that are no counts (negative, NaN) do not parse.
func parseSample(line string) (name string, labels map[string]string, value uint64, ok bool) {
	var rest string
	if i := strings.IndexAny(line, "{ "); i < 0 {
		return "", nil, 0, false
	} else if name, rest = line[:i], line[i:]; rest[0] == '{' {
		labels, rest, ok = parseLabels(rest[1:])
		if !ok {
			return "", nil, 0, false
		}
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 || len(fields) > 2 { // a timestamp may follow
		return "", nil, 0, false
	}
	f, err := strconv.ParseFloat(fields[0], 64)
	if err != nil || math.IsNaN(f) || f < 0 {
		return "", nil, 0, false
	}
	if f >= math.MaxUint64 {
		return name, labels, math.MaxUint64, true
	}
	return name, labels, uint64(f), true
}

// parseLabels reads a="b",c="d"} and returns what follows.
func parseLabels(s string) (labels map[string]string, rest string, ok bool) {
	labels = map[string]string{}
	for {
		s = strings.TrimLeft(s, ", ")
		if after, closed := strings.CutPrefix(s, "}"); closed {
			return labels, after, true
		}
		key, after, found := strings.Cut(s, "=")
		if !found || !strings.HasPrefix(after, `"`) {
			return nil, "", false
		}
		quoted, err := strconv.QuotedPrefix(after)
		if err != nil {
			return nil, "", false
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, "", false
		}
		labels[strings.TrimSpace(key)] = value
		s = after[len(quoted):]
	}
}

// Between counts the requests between two looks, by status. Where a counter went back, vmagent was started anew and all of
// the second look counts.
func Between(first, second Counters) map[string]uint64 {
	recent := map[string]uint64{}
	restarted := false
	for status, n := range first.RequestsByStatus {
		restarted = restarted || second.RequestsByStatus[status] < n
	}
	for status, n := range second.RequestsByStatus {
		if !restarted {
			n -= first.RequestsByStatus[status]
		}
		if n > 0 {
			recent[status] = n
		}
	}
	return recent
}

// stuckAfter is how long a queue that is not empty may stand still before it counts as held up: vmagent sends at once what
// it can send.
const stuckAfter = 4 * time.Second

// Judge says what becomes of the samples, from two looks at vmagent. It prefers what happens now to what happened since
// vmagent started; without any request between the looks it says what the totals still prove.
func Judge(first, second Counters) (DeliveryState, string) {
	recent := Between(first, second)
	if recent["2xx"] > 0 {
		return Delivering, "the metrics store accepts samples"
	}
	if len(recent) > 0 {
		return verdict(recent)
	}
	// Between two retries of a block nothing happens, for up to a minute. While something waits and nothing was ever
	// accepted, or nothing moves that would move within seconds, the totals tell why.
	stuck := first.QueueBytes > 0 && second.At.Sub(first.At) >= stuckAfter
	if second.QueueBytes > 0 && (second.RequestsByStatus["2xx"] == 0 || stuck) && failures(second.RequestsByStatus) > 0 {
		return verdict(second.RequestsByStatus)
	}
	if second.RequestsByStatus["2xx"] == 0 {
		return Idle, "vmagent has not sent anything yet"
	}
	return Idle, "vmagent sent nothing while we looked; it was accepted before"
}

func failures(byStatus map[string]uint64) (n uint64) {
	for status, count := range byStatus {
		if status != "2xx" {
			n = sum(n, count)
		}
	}
	return n
}

// verdict names the most frequent failure; an answer tells more than the lack of one.
func verdict(byStatus map[string]uint64) (DeliveryState, string) {
	worst := ""
	for _, status := range slices.Sorted(maps.Keys(byStatus)) {
		if status != "2xx" && status != StatusError && byStatus[status] > 0 && (worst == "" || byStatus[status] > byStatus[worst]) {
			worst = status
		}
	}
	switch worst {
	case "":
		return Unreachable, "vmagent gets no answer from the metrics store"
	case "401", "403":
		return Refused, fmt.Sprintf("the metrics store refuses the credentials: HTTP %s", worst)
	case "429":
		return Blocked, "the metrics store throttles: HTTP 429"
	case "404":
		return Refused, "the metrics store knows no such workspace: HTTP 404"
	case "400", "409", "415":
		return Refused, fmt.Sprintf("the metrics store rejects the samples: HTTP %s", worst)
	}
	if strings.HasPrefix(worst, "5") {
		return Blocked, fmt.Sprintf("the metrics store has trouble of its own: HTTP %s", worst)
	}
	return Refused, fmt.Sprintf("the metrics store refuses: HTTP %s", worst)
}

// An HTTPDoer sends a request, as *http.Client does.
type HTTPDoer interface {
	Do(req *http.Request) (*http.Response, error)
}

// ReadVmagent fetches and parses vmagent's metrics. base is vmagent's address with or without the /metrics path.
func ReadVmagent(ctx context.Context, client HTTPDoer, base string, now func() time.Time) (Counters, error) {
	address := strings.TrimSuffix(base, "/")
	if !strings.HasSuffix(address, "/metrics") {
		address += "/metrics"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return Counters{}, coded{CodeBadURL, "vmagent's address cannot be parsed"}
	}
	resp, err := client.Do(req)
	if err != nil {
		// url.Error repeats the whole address.
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		_, text := classify(ctx, err, now(), DefaultTimeout)
		return Counters{}, fmt.Errorf("asking vmagent at %s: %s", req.URL.Host, text)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Counters{}, fmt.Errorf("asking vmagent at %s: HTTP %d", req.URL.Host, resp.StatusCode)
	}
	c, err := ParseVmagent(resp.Body)
	c.At = now()
	if err != nil {
		return c, fmt.Errorf("asking vmagent at %s: %w", req.URL.Host, err)
	}
	return c, nil
}

// Watch looks at vmagent until some request of it has ended between two looks, at most for window, and judges.
// step is the time between looks.
func Watch(ctx context.Context, client HTTPDoer, base string, window, step time.Duration, now func() time.Time) Delivery {
	d := Delivery{URL: base, State: Unknown, Detail: "vmagent could not be asked"}
	first, err := ReadVmagent(ctx, client, base, now)
	if err != nil {
		d.Error = err.Error()
		return d
	}
	second := first
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for second.At.Sub(first.At) < window && len(Between(first, second)) == 0 {
		select {
		case <-ctx.Done():
			return d.fill(first, second)
		case <-ticker.C:
		}
		// A failing second look leaves the verdict to what is known.
		next, err := ReadVmagent(ctx, client, base, now)
		if err != nil {
			break
		}
		second = next
	}
	return d.fill(first, second)
}

func (d Delivery) fill(first, second Counters) Delivery {
	d.State, d.Detail = Judge(first, second)
	d.RequestsByStatus = second.RequestsByStatus
	d.RecentByStatus = Between(first, second)
	d.WindowMillis = second.At.Sub(first.At).Milliseconds()
	d.QueueBytes, d.DroppedPackets = second.QueueBytes, second.DroppedPackets
	d.TargetsUp, d.TargetsTotal, d.UptimeSeconds = second.TargetsUp, second.TargetsTotal, second.UptimeSeconds
	return d
}

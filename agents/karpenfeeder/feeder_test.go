package karpenfeeder_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/agents/karpenfeeder"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// A run is a feeder at a moment that the test moves.
type run struct {
	*karpenfeeder.Feeder
	now time.Time
	log bytes.Buffer
	dir string
}

func feeder(t *testing.T, c *cloud) *run {
	t.Helper()
	r := &run{now: noon, dir: t.TempDir()}
	o := options("dir:" + r.dir)
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	r.Feeder = &karpenfeeder.Feeder{Options: o, AWS: karpenfeeder.NewAWS(c.start()), Sink: karpenfeeder.Dir(r.dir), Now: func() time.Time { return r.now }, Log: slog.New(slog.NewTextHandler(&r.log, nil))}
	return r
}

func read[T any](t *testing.T, r *run, name string) (doc T) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestMarket: from pages of answers, through the real client, to a document that the contract allows.
func TestMarket(t *testing.T) {
	c := newCloud(t, noon)
	r := feeder(t, c)
	if err := r.Once(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, r.log.String())
	}
	m := read[nopsapi.Market](t, r, karpenfeeder.KeyMarket)
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	if len(m.InstanceTypes) != 4 || len(m.Offerings) != 16 || !m.AsOf.Equal(noon) || !m.ValidUntil.Equal(noon.Add(45*time.Minute)) {
		t.Errorf("%d types, %d offerings, as of %s, valid until %s", len(m.InstanceTypes), len(m.Offerings), m.AsOf, m.ValidUntil)
	}
	by := map[string]nopsapi.MarketOffering{}
	for _, o := range m.Offerings {
		by[o.InstanceType+"/"+o.ZoneID+"/"+o.CapacityType] = o
	}
	for _, tt := range []struct {
		name, key, reason string
		want              nopsapi.MarketOffering
	}{
		{"newest spot price with its zone's score", "m7i.large/use1-az4/spot", "an older price and one of Windows are there too",
			nopsapi.MarketOffering{InstanceType: "m7i.large", ZoneID: "use1-az4", Zone: "us-east-1a", CapacityType: "spot", Price: 0.0412, OnDemandPrice: 0.1, PlacementScore: 7, TargetVCPU: 64, ObservedAt: noon}},
		{"the other zone's score", "m7i.large/use1-az6/spot", "a bad zone must not be hidden by a good one",
			nopsapi.MarketOffering{InstanceType: "m7i.large", ZoneID: "use1-az6", Zone: "us-east-1b", CapacityType: "spot", Price: 0.05, OnDemandPrice: 0.1, PlacementScore: 2, TargetVCPU: 64, ObservedAt: noon}},
		{"no score for one type alone", "c7g.large/use1-az4/spot", "scores of fewer than three types come out low for no reason",
			nopsapi.MarketOffering{InstanceType: "c7g.large", ZoneID: "use1-az4", Zone: "us-east-1a", CapacityType: "spot", Price: 0.0412, OnDemandPrice: 0.8, ObservedAt: noon}},
		{"on demand", "m7i.large/use1-az4/on-demand", "not the dedicated tenancy's price",
			nopsapi.MarketOffering{InstanceType: "m7i.large", ZoneID: "use1-az4", Zone: "us-east-1a", CapacityType: "on-demand", Price: 0.1, OnDemandPrice: 0.1, ObservedAt: noon}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, by[tt.key]); diff != "" {
				t.Errorf("%s (%s)", diff, tt.reason)
			}
		})
	}
	for _, one := range m.InstanceTypes {
		if one.Name == "c7g.large" {
			want := map[string]string{"node.kubernetes.io/instance-type": "c7g.large", "kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux", "karpenter.k8s.aws/instance-family": "c7g", "karpenter.k8s.aws/instance-category": "c",
				"karpenter.k8s.aws/instance-generation": "7", "karpenter.k8s.aws/instance-size": "large", "karpenter.k8s.aws/instance-cpu": "2", "karpenter.k8s.aws/instance-memory": "4096",
				"karpenter.k8s.aws/instance-cpu-manufacturer": "intel", "karpenter.k8s.aws/instance-hypervisor": "nitro"}
			if diff := cmp.Diff(want, one.Labels); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// TestCommitments: what others use, what billing says, what is this cluster's own; and what pays for no nodes.
func TestCommitments(t *testing.T) {
	c := newCloud(t, noon)
	r := feeder(t, c)
	if err := r.Once(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, r.log.String())
	}
	doc := read[nopsapi.Commitments](t, r, karpenfeeder.KeyCommitments)
	if err := doc.Validate(); err != nil {
		t.Fatal(err)
	}
	by := map[string]nopsapi.Commitment{}
	for _, one := range doc.Commitments {
		by[one.ID] = one
	}
	if len(by) != 4 {
		t.Fatalf("%d commitments, want 4: %v", len(by), doc.Commitments)
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if d := got - want; d > 1e-9 || d < -1e-9 {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	// Of the plan's rates the dearest per vCPU: m7i.xlarge at 0.12 for 4 is 0.03, c7g.large 0.04 for 2 is 0.02; x9z is not known here.
	if diff := cmp.Diff(map[string]float64{"m7i": 0.03, "c7g": 0.02}, by["sp-compute"].Rates); diff != "" {
		t.Error(diff)
	}
	// Others run now: m7i 2 (large) + 4 (another cluster's own pool), c7g 2; spot counts for nobody. Billing: 1.2 an hour less 4 own m7i at 0.03.
	near("sp-compute last", by["sp-compute"].OtherUse.Last, 6*0.03+2*0.02)
	near("sp-compute p90", by["sp-compute"].OtherUse.P90, 1.2-4*0.03)
	near("sp-compute vCPU", by["sp-compute"].Allocation.VCPU, 33) // half of 2.0 / 0.03, down
	near("sp-ec2 p90", by["sp-ec2"].OtherUse.P90, 1-4*0.02)       // all of it by billing, less 4 own
	near("ri-regional total", by["ri-regional"].Total, 20)
	near("ri-regional p90", by["ri-regional"].OtherUse.P90, 8) // 60 % of 20 less 4 own
	if got := by["ri-zonal"]; got.Kind != nopsapi.CommitmentZonalRI || got.Scope.InstanceType != "m7i.xlarge" || got.Scope.ZoneID != "use1-az4" {
		t.Errorf("zonal: %+v", got)
	}
	near("ri-zonal p90", by["ri-zonal"].OtherUse.P90, 4) // 6 run, of 4 that there are
	if lease := by["sp-ec2"].Allocation.LeaseUntil; !lease.Equal(noon.Add(45 * time.Minute)) {
		t.Errorf("leased until %s", lease)
	}
	for _, want := range []string{"sp-sagemaker is of the type SageMaker", "ri-windows are for Windows"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("nothing said of %q:\n%s", want, r.log.String())
		}
	}
}

// TestOwnUseIsNotOthers: a share that is used must not shrink because it is used.
func TestOwnUseIsNotOthers(t *testing.T) {
	c := newCloud(t, noon)
	c.used = nil
	c.running = nil
	r := feeder(t, c)
	for i := range 6 {
		if err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if use := read[nopsapi.Commitments](t, r, karpenfeeder.KeyCommitments).Commitments; use[2].ID != "sp-compute" || use[2].OtherUse.P90 != 0 {
			t.Fatalf("run %d: %s is used by others: %+v", i, use[2].ID, use[2].OtherUse)
		}
		c.running = append(c.running, machine("m7i.2xlarge", false, "eks:eks-cluster-name", "prod", "karpenter.sh/nodepool", "nops-default-commitment-1a2b"))
		r.now = r.now.Add(10 * time.Minute)
	}
}

// TestRuns: numbers rise whatever happens, samples and scores are remembered, and forgotten in time.
func TestRuns(t *testing.T) {
	c := newCloud(t, noon)
	r := feeder(t, c)
	var last uint64
	for i := range 8 { // 0:00, 0:10 … 1:10
		if err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		m := read[nopsapi.Market](t, r, karpenfeeder.KeyMarket)
		if m.Seq <= last {
			t.Errorf("run %d: number %d after %d", i, m.Seq, last)
		}
		last = m.Seq
		r.now = r.now.Add(10 * time.Minute)
	}
	// Two scores a page make one request for m7i; c7g has too few types. Once at the start, once after an hour.
	if n := c.count("GetSpotPlacementScores"); n != 2 {
		t.Errorf("asked %d times for scores, want 2", n)
	}
	if n := c.count("GetProducts"); n != 8 { // four types, two pages each, once a day
		t.Errorf("asked %d times for prices, want 8", n)
	}
	use := read[nopsapi.Commitments](t, r, karpenfeeder.KeyCommitments).Commitments[0].OtherUse
	if use.WindowSeconds != 70*60 {
		t.Errorf("a window of %d s, want that of 8 samples", use.WindowSeconds)
	}
	r.now = r.now.Add(48 * time.Hour)
	if err := r.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if use := read[nopsapi.Commitments](t, r, karpenfeeder.KeyCommitments).Commitments[0].OtherUse; use.WindowSeconds != 0 {
		t.Errorf("samples of two days ago still count: %d s", use.WindowSeconds)
	}
	// The clock was set back and the memory deleted: the number rises while either is there.
	seq := read[nopsapi.Market](t, r, karpenfeeder.KeyMarket).Seq
	r.now = noon
	if err := r.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := read[nopsapi.Market](t, r, karpenfeeder.KeyMarket); m.Seq != seq+1 {
		t.Errorf("number %d after %d", m.Seq, seq)
	}
}

// TestRefusals: what AWS does not let it know.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, operation, code, reason string
		times                         int
		fails                         string // "": the run succeeds
		market, commitments           bool
		said                          string
	}{
		{"throttled twice", "DescribeSpotPriceHistory", "RequestLimitExceeded", "the SDK tries again", 2, "", true, true, ""},
		{"no scores", "GetSpotPlacementScores", "UnauthorizedOperation", "prices without scores are worth having", -1, "", true, true, "placement scores of m7i: UnauthorizedOperation: constructed refusal"},
		{"too many scores for a day", "GetSpotPlacementScores", "MaxConfigLimitExceeded", "likewise", -1, "", true, true, "MaxConfigLimitExceeded"},
		{"no Cost Explorer", "GetSavingsPlansUtilizationDetails", "AccessDeniedException", "live use is known", -1, "", true, true, "use of Savings Plans by billing: AccessDeniedException"},
		{"no reservations in Cost Explorer", "GetReservationUtilization", "AccessDeniedException", "live use is known", -1, "", true, true, "use of Reserved Instances by billing"},
		{"no types", "DescribeInstanceTypes", "UnauthorizedOperation", "nothing can be said of either: without types no vCPUs", -1, "ec2:DescribeInstanceTypes", false, true, ""},
		{"no prices", "GetProducts", "AccessDeniedException", "a market without on-demand prices is none", -1, "pricing:GetProducts of m7i.", false, true, ""},
		{"no plans", "DescribeSavingsPlans", "AccessDeniedException", "others' use unknown: no document", -1, "savingsplans:DescribeSavingsPlans", true, false, ""},
		{"no instances", "DescribeInstances", "UnauthorizedOperation", "others' use unknown: no document", -1, "ec2:DescribeInstances", true, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCloud(t, noon)
			c.fail[tt.operation], c.code = tt.times, tt.code
			r := feeder(t, c)
			err := r.Once(t.Context())
			if (err == nil) != (tt.fails == "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Fatalf("%v, want %q (%s)", err, tt.fails, tt.reason)
			}
			for name, want := range map[string]bool{karpenfeeder.KeyMarket: tt.market, karpenfeeder.KeyCommitments: tt.commitments} {
				if _, err := os.Stat(filepath.Join(r.dir, name)); (err == nil) != want {
					t.Errorf("%s: %v, want it there: %v (%s)", name, err, want, tt.reason)
				}
			}
			if !strings.Contains(r.log.String(), tt.said) {
				t.Errorf("not said %q:\n%s", tt.said, r.log.String())
			}
			if strings.Contains(r.log.String(), secretKey) || err != nil && strings.Contains(err.Error(), secretKey) {
				t.Error("the secret key is in the log or the error")
			}
		})
	}
	t.Run("a key that AWS does not know", func(t *testing.T) {
		c := newCloud(t, noon)
		r := feeder(t, c)
		cfg := c.start()
		cfg.Credentials = nil
		r.AWS = karpenfeeder.NewAWS(cfg)
		if err := r.Once(t.Context()); err == nil {
			t.Error("answered without a signature: the stand-in verifies nothing")
		}
	})
}

// TestDamagedMemory: starting anew would number documents that karpenops has seen.
func TestDamagedMemory(t *testing.T) {
	c := newCloud(t, noon)
	r := feeder(t, c)
	if err := os.WriteFile(filepath.Join(r.dir, "feeder.gz"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "feeder.gz") {
		t.Errorf("%v, want the file named", err)
	}
}

func TestRunUntilAsked(t *testing.T) {
	c := newCloud(t, noon)
	r := feeder(t, c)
	r.Options.Every = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for {
		if _, err := os.Stat(filepath.Join(r.dir, karpenfeeder.KeyCommitments)); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("ended early: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	if o := options("configmap:nops-karpenops-facts"); o.Validate() != nil {
		t.Fatal(o.Validate())
	}
	for _, tt := range []struct {
		name   string
		change func(*karpenfeeder.Options)
		want   string
	}{
		{"no region", func(o *karpenfeeder.Options) { o.Region = "" }, "--region"},
		{"a zone for a region", func(o *karpenfeeder.Options) { o.Region = "us-east-1a" }, "no region such as us-east-1"},
		{"no families", func(o *karpenfeeder.Options) { o.Families = nil }, "--families"},
		{"a type for a family", func(o *karpenfeeder.Options) { o.Families = []string{"m7i.large"} }, "no family such as m7i"},
		{"a family twice", func(o *karpenfeeder.Options) { o.Families = []string{"m7i", "m7i"} }, "twice"},
		{"more than all", func(o *karpenfeeder.Options) { o.Share = 1.5 }, "--share"},
		{"a share of an unnamed cluster", func(o *karpenfeeder.Options) { o.Cluster = "" }, "--share needs --cluster"},
		{"nowhere", func(o *karpenfeeder.Options) { o.To = "s3:bucket" }, "neither configmap:NAME nor dir:PATH"},
		{"an odd name", func(o *karpenfeeder.Options) { o.To = "configmap:Facts!" }, "no name of a ConfigMap"},
		{"too often", func(o *karpenfeeder.Options) { o.Every = time.Second }, "--every"},
		{"holding between runs", func(o *karpenfeeder.Options) { o.Every = 40 * time.Minute }, "less than two runs apart"},
		{"a target beyond AWS's", func(o *karpenfeeder.Options) { o.TargetVCPU = 1 << 30 }, "--target-vcpu"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options("configmap:nops-karpenops-facts")
			tt.change(&o)
			if err := o.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

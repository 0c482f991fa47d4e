package karpenfeeder_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	cetypes "github.com/aws/aws-sdk-go-v2/service/costexplorer/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	sptypes "github.com/aws/aws-sdk-go-v2/service/savingsplans/types"

	"github.com/nopsctl/nopsctl/agents/karpenfeeder"
	"github.com/nopsctl/nopsctl/internal/sigv4"
)

// The answers below are CONSTRUCTED from the SDK's types, after its documentation: none was recorded from AWS.

const (
	region    = "us-east-1"
	keyID     = "AKIAEXAMPLEEXAMPLE00"
	secretKey = "constructed/secret/of/this/test/alone000"
)

// cloud stands in for EC2, Pricing, Savings Plans and Cost Explorer. It verifies every request's signature, hands out pages of two, and
// fails as it is told.
type cloud struct {
	t        *testing.T
	zones    []types.AvailabilityZone
	types    []types.InstanceTypeInfo
	spot     []types.SpotPrice
	scores   map[string][]types.SpotPlacementScore // by family
	reserved []types.ReservedInstances
	running  []types.Instance
	products map[string][]string // by type
	plans    []sptypes.SavingsPlan
	rates    map[string][]sptypes.SavingsPlanRate
	used     []cetypes.SavingsPlansUtilizationDetail
	groups   []cetypes.ReservationUtilizationGroup

	mu    sync.Mutex
	calls []string
	fail  map[string]int // operation → how many requests of it are refused; -1: all
	code  string
}

func (c *cloud) start() aws.Config {
	server := httptest.NewServer(c)
	c.t.Cleanup(server.Close)
	return aws.Config{
		Region: region, BaseEndpoint: aws.String(server.URL), HTTPClient: server.Client(), RetryMaxAttempts: 3,
		Credentials: credentials.NewStaticCredentialsProvider(keyID, secretKey, ""),
	}
}

func (c *cloud) count(operation string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, call := range c.calls {
		if call == operation {
			n++
		}
	}
	return n
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	scope := strings.Split(r.Header.Get("Authorization"), "/")
	if len(scope) < 4 {
		http.Error(w, "unsigned", http.StatusForbidden)
		return
	}
	service := scope[3]
	lookup := func(id string) (sigv4.Key, error) {
		if id != keyID {
			return sigv4.Key{}, fmt.Errorf("no key %s", id)
		}
		return sigv4.Key{AccessKeyID: keyID, SecretAccessKey: secretKey}, nil
	}
	if _, err := (sigv4.Verifier{Region: region, Service: service, Lookup: lookup}).Verify(r, body); err != nil {
		c.refuse(w, service, http.StatusForbidden, "SignatureDoesNotMatch", err.Error())
		return
	}
	var operation string
	var answer any
	switch service {
	case "ec2":
		form, err := url.ParseQuery(string(body))
		if err != nil {
			c.refuse(w, service, http.StatusBadRequest, "MalformedQueryString", err.Error())
			return
		}
		operation = form.Get("Action")
		answer = c.ec2(operation, form)
	case "savingsplans":
		operation = strings.TrimPrefix(r.URL.Path, "/")
		answer = c.json(operation, body)
	default: // "pricing", "ce"
		_, operation, _ = strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		answer = c.json(operation, body)
	}
	c.mu.Lock()
	c.calls = append(c.calls, operation)
	left := c.fail[operation]
	if left > 0 {
		c.fail[operation]--
	}
	c.mu.Unlock()
	if left != 0 {
		c.refuse(w, service, map[string]int{"RequestLimitExceeded": http.StatusServiceUnavailable}[c.code], c.code, "constructed refusal")
		return
	}
	if answer == nil {
		c.t.Errorf("%s: unexpected operation %q", service, operation)
		c.refuse(w, service, http.StatusBadRequest, "InvalidAction", operation)
		return
	}
	if text, is := answer.(element); is {
		w.Header().Set("Content-Type", "text/xml")
		_, _ = io.WriteString(w, text.String())
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(answer)
}

func (c *cloud) refuse(w http.ResponseWriter, service string, status int, code, message string) {
	if status == 0 {
		status = http.StatusForbidden
	}
	if service == "ec2" {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, el("Response", el("Errors", el("Error", el("Code", code), el("Message", message))), el("RequestID", "constructed")).String())
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Errortype", code)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": message})
}

// element is XML as EC2 answers it.
type element struct {
	name     string
	children []any
}

func el(name string, children ...any) element { return element{name, children} }

func (e element) String() string {
	var b strings.Builder
	b.WriteString("<" + e.name + ">")
	for _, c := range e.children {
		switch v := c.(type) {
		case element:
			b.WriteString(v.String())
		case []element:
			for _, one := range v {
				b.WriteString(one.String())
			}
		default:
			_ = xml.EscapeText(&b, []byte(fmt.Sprint(v)))
		}
	}
	b.WriteString("</" + e.name + ">")
	return b.String()
}

const pageSize = 2

// paged gives two at a time and the token of the rest.
func paged[T any](all []T, token string) ([]T, string) {
	from, _ := strconv.Atoi(token)
	to := min(from+pageSize, len(all))
	if to < len(all) {
		return all[from:to], strconv.Itoa(to)
	}
	return all[from:to], ""
}

func items[T any](all []T, fields func(T) []any) (set []element) {
	for _, one := range all {
		set = append(set, el("item", fields(one)...))
	}
	return set
}

func (c *cloud) ec2(action string, form url.Values) any {
	token := form.Get("NextToken")
	reply := func(set element, next string) element {
		return el(action+"Response", set, el("nextToken", next))
	}
	switch action {
	case "DescribeAvailabilityZones":
		return reply(el("availabilityZoneInfo", items(c.zones, func(z types.AvailabilityZone) []any {
			return []any{el("zoneName", aws.ToString(z.ZoneName)), el("zoneId", aws.ToString(z.ZoneId))}
		})), "")
	case "DescribeInstanceTypes":
		page, next := paged(c.types, token)
		return reply(el("instanceTypeSet", items(page, func(t types.InstanceTypeInfo) []any {
			fields := []any{el("instanceType", t.InstanceType)}
			if t.VCpuInfo != nil {
				fields = append(fields, el("vCpuInfo", el("defaultVCpus", aws.ToInt32(t.VCpuInfo.DefaultVCpus))))
			}
			if t.MemoryInfo != nil {
				fields = append(fields, el("memoryInfo", el("sizeInMiB", aws.ToInt64(t.MemoryInfo.SizeInMiB))))
			}
			if t.ProcessorInfo != nil {
				fields = append(fields, el("processorInfo", el("manufacturer", aws.ToString(t.ProcessorInfo.Manufacturer)),
					el("supportedArchitectures", items(t.ProcessorInfo.SupportedArchitectures, func(a types.ArchitectureType) []any { return []any{a} }))))
			}
			return append(fields, el("hypervisor", t.Hypervisor))
		})), next)
	case "DescribeSpotPriceHistory":
		page, next := paged(c.spot, token)
		return reply(el("spotPriceHistorySet", items(page, func(p types.SpotPrice) []any {
			return []any{el("availabilityZone", aws.ToString(p.AvailabilityZone)), el("instanceType", p.InstanceType), el("productDescription", p.ProductDescription),
				el("spotPrice", aws.ToString(p.SpotPrice)), el("timestamp", aws.ToTime(p.Timestamp).Format(time.RFC3339))}
		})), next)
	case "GetSpotPlacementScores":
		if form.Get("SingleAvailabilityZone") != "true" || form.Get("TargetCapacityUnitType") != "vcpu" || form.Get("RegionName.1") != region || form.Get("InstanceType.3") == "" {
			c.t.Errorf("placement scores asked for with %v", form)
		}
		fam, _, _ := strings.Cut(form.Get("InstanceType.1"), ".")
		page, next := paged(c.scores[fam], token)
		return reply(el("spotPlacementScoreSet", items(page, func(s types.SpotPlacementScore) []any {
			return []any{el("availabilityZoneId", aws.ToString(s.AvailabilityZoneId)), el("region", aws.ToString(s.Region)), el("score", aws.ToInt32(s.Score))}
		})), next)
	case "DescribeReservedInstances":
		return reply(el("reservedInstancesSet", items(c.reserved, func(r types.ReservedInstances) []any {
			return []any{el("reservedInstancesId", aws.ToString(r.ReservedInstancesId)), el("instanceType", r.InstanceType), el("instanceCount", aws.ToInt32(r.InstanceCount)),
				el("productDescription", r.ProductDescription), el("instanceTenancy", r.InstanceTenancy), el("offeringClass", r.OfferingClass), el("scope", r.Scope),
				el("availabilityZoneId", aws.ToString(r.AvailabilityZoneId)), el("start", aws.ToTime(r.Start).Format(time.RFC3339)), el("end", aws.ToTime(r.End).Format(time.RFC3339)), el("state", r.State)}
		})), "")
	case "DescribeInstances":
		page, next := paged(c.running, token)
		return reply(el("reservationSet", el("item", el("instancesSet", items(page, func(i types.Instance) []any {
			return []any{el("instanceId", aws.ToString(i.InstanceId)), el("instanceType", i.InstanceType), el("instanceLifecycle", i.InstanceLifecycle), el("instanceState", el("name", i.State.Name)),
				el("tagSet", items(i.Tags, func(t types.Tag) []any {
					return []any{el("key", aws.ToString(t.Key)), el("value", aws.ToString(t.Value))}
				}))}
		})))), next)
	}
	return nil
}

func (c *cloud) json(operation string, body []byte) any {
	var in struct {
		NextToken, NextPageToken string
		Lower                    string `json:"nextToken"`
		SavingsPlanID            string `json:"savingsPlanId"`
		Filters                  []struct{ Field, Value string }
		TimePeriod               struct{ Start, End string }
	}
	if err := json.Unmarshal(body, &in); err != nil {
		c.t.Errorf("%s: %v", operation, err)
	}
	switch operation {
	case "GetProducts":
		name := ""
		for _, f := range in.Filters {
			if f.Field == "instanceType" {
				name = f.Value
			}
		}
		page, next := paged(c.products[name], in.NextToken)
		return map[string]any{"PriceList": page, "NextToken": next, "FormatVersion": "aws_v1"}
	case "DescribeSavingsPlans":
		page, next := paged(c.plans, in.Lower)
		var plans []map[string]any
		for _, p := range page {
			plans = append(plans, map[string]any{
				"savingsPlanId": p.SavingsPlanId, "savingsPlanArn": p.SavingsPlanArn, "savingsPlanType": p.SavingsPlanType, "commitment": p.Commitment, "region": p.Region,
				"ec2InstanceFamily": p.Ec2InstanceFamily, "start": p.Start, "end": p.End, "state": p.State, "termDurationInSeconds": p.TermDurationInSeconds,
			})
		}
		return map[string]any{"savingsPlans": plans, "nextToken": next}
	case "DescribeSavingsPlanRates":
		page, next := paged(c.rates[in.SavingsPlanID], in.Lower)
		var rates []map[string]any
		for _, r := range page {
			var properties []map[string]any
			for _, p := range r.Properties {
				properties = append(properties, map[string]any{"name": p.Name, "value": p.Value})
			}
			rates = append(rates, map[string]any{"rate": r.Rate, "unit": r.Unit, "productType": r.ProductType, "properties": properties})
		}
		return map[string]any{"savingsPlanId": in.SavingsPlanID, "searchResults": rates, "nextToken": next}
	case "GetSavingsPlansUtilizationDetails", "GetReservationUtilization":
		start, err1 := time.Parse(time.DateOnly, in.TimePeriod.Start)
		end, err2 := time.Parse(time.DateOnly, in.TimePeriod.End)
		if err1 != nil || err2 != nil || end.Sub(start) != 72*time.Hour {
			c.t.Errorf("%s: the period %+v", operation, in.TimePeriod)
		}
		if operation == "GetReservationUtilization" {
			page, next := paged(c.groups, in.NextPageToken)
			return map[string]any{"UtilizationsByTime": []any{map[string]any{"Groups": page}}, "NextPageToken": next}
		}
		page, next := paged(c.used, in.NextToken)
		return map[string]any{"SavingsPlansUtilizationDetails": page, "NextToken": next, "TimePeriod": in.TimePeriod}
	}
	return nil
}

// instance types, prices and the like, as a small region would have them.
func info(name string, vcpu int32, mib int64, arch types.ArchitectureType) types.InstanceTypeInfo {
	return types.InstanceTypeInfo{
		InstanceType: types.InstanceType(name), VCpuInfo: &types.VCpuInfo{DefaultVCpus: aws.Int32(vcpu)}, MemoryInfo: &types.MemoryInfo{SizeInMiB: aws.Int64(mib)},
		ProcessorInfo: &types.ProcessorInfo{Manufacturer: aws.String("Intel"), SupportedArchitectures: []types.ArchitectureType{arch}}, Hypervisor: types.InstanceTypeHypervisorNitro,
	}
}

func product(name, price, tenancy string) string {
	return fmt.Sprintf(`{"product":{"attributes":{"instanceType":%q,"operatingSystem":"Linux","tenancy":%q,"preInstalledSw":"NA","capacitystatus":"Used"}},`+
		`"terms":{"OnDemand":{"X.Y":{"priceDimensions":{"X.Y.Z":{"unit":"Hrs","pricePerUnit":{"USD":%q}}}}}}}`, name, tenancy, price)
}

func spotPrice(name, zone, price string, at time.Time) types.SpotPrice {
	return types.SpotPrice{InstanceType: types.InstanceType(name), AvailabilityZone: aws.String(zone), SpotPrice: aws.String(price), Timestamp: aws.Time(at), ProductDescription: types.RIProductDescriptionLinuxUnix}
}

func machine(name string, spot bool, tags ...string) types.Instance {
	i := types.Instance{InstanceId: aws.String("i-" + name), InstanceType: types.InstanceType(name), State: &types.InstanceState{Name: types.InstanceStateNameRunning}}
	if spot {
		i.InstanceLifecycle = types.InstanceLifecycleTypeSpot
	}
	for n := 0; n+1 < len(tags); n += 2 {
		i.Tags = append(i.Tags, types.Tag{Key: aws.String(tags[n]), Value: aws.String(tags[n+1])})
	}
	return i
}

func rate(name, price string) sptypes.SavingsPlanRate {
	properties := map[sptypes.SavingsPlanRatePropertyKey]string{
		sptypes.SavingsPlanRatePropertyKeyInstanceType: name, sptypes.SavingsPlanRatePropertyKeyProductDescription: "Linux/UNIX",
		sptypes.SavingsPlanRatePropertyKeyTenancy: "shared", sptypes.SavingsPlanRatePropertyKeyRegion: region,
	}
	r := sptypes.SavingsPlanRate{Rate: aws.String(price), Unit: sptypes.SavingsPlanRateUnitHours, ProductType: sptypes.SavingsPlanProductTypeEc2}
	for k, v := range properties {
		r.Properties = append(r.Properties, sptypes.SavingsPlanRateProperty{Name: k, Value: aws.String(v)})
	}
	return r
}

func newCloud(t *testing.T, now time.Time) *cloud {
	c := &cloud{
		t: t, fail: map[string]int{}, code: "UnauthorizedOperation",
		zones: []types.AvailabilityZone{{ZoneName: aws.String("us-east-1a"), ZoneId: aws.String("use1-az4")}, {ZoneName: aws.String("us-east-1b"), ZoneId: aws.String("use1-az6")}},
		types: []types.InstanceTypeInfo{
			info("m7i.large", 2, 8192, types.ArchitectureTypeX8664), info("m7i.xlarge", 4, 16384, types.ArchitectureTypeX8664), info("m7i.2xlarge", 8, 32768, types.ArchitectureTypeX8664),
			info("c7g.large", 2, 4096, types.ArchitectureTypeArm64),
		},
		scores:   map[string][]types.SpotPlacementScore{"m7i": {{AvailabilityZoneId: aws.String("use1-az4"), Region: aws.String(region), Score: aws.Int32(7)}, {AvailabilityZoneId: aws.String("use1-az6"), Region: aws.String(region), Score: aws.Int32(2)}}},
		products: map[string][]string{},
		rates:    map[string][]sptypes.SavingsPlanRate{},
	}
	for i, name := range []string{"m7i.large", "m7i.xlarge", "m7i.2xlarge", "c7g.large"} {
		price := fmt.Sprintf("%.4f", 0.1*float64(int(1)<<i))
		c.products[name] = []string{product(name, price, "Shared"), product(name, "9.9", "Dedicated"), `not json`}
		c.spot = append(c.spot, spotPrice(name, "us-east-1a", "0.0300", now.Add(-time.Hour)), spotPrice(name, "us-east-1a", "0.0412", now), spotPrice(name, "us-east-1b", "0.0500", now))
	}
	c.spot = append(c.spot, types.SpotPrice{InstanceType: "m7i.large", AvailabilityZone: aws.String("us-east-1a"), SpotPrice: aws.String("0.9"), Timestamp: aws.Time(now), ProductDescription: types.RIProductDescriptionWindows})
	c.plans = []sptypes.SavingsPlan{
		{SavingsPlanId: aws.String("sp-compute"), SavingsPlanArn: aws.String("arn:sp-compute"), SavingsPlanType: sptypes.SavingsPlanTypeCompute, Commitment: aws.String("2.0"), Start: aws.String("2026-01-01T00:00:00Z"), End: aws.String("2027-01-01T00:00:00Z"), State: sptypes.SavingsPlanStateActive},
		{SavingsPlanId: aws.String("sp-ec2"), SavingsPlanArn: aws.String("arn:sp-ec2"), SavingsPlanType: sptypes.SavingsPlanTypeEc2Instance, Region: aws.String(region), Ec2InstanceFamily: aws.String("m7i"), Commitment: aws.String("1.0"), Start: aws.String("2026-01-01T00:00:00Z"), End: aws.String("2027-01-01T00:00:00Z"), State: sptypes.SavingsPlanStateActive},
		{SavingsPlanId: aws.String("sp-sagemaker"), SavingsPlanType: sptypes.SavingsPlanTypeSagemaker, Commitment: aws.String("1.0"), State: sptypes.SavingsPlanStateActive},
	}
	c.rates["sp-compute"] = []sptypes.SavingsPlanRate{rate("m7i.large", "0.05"), rate("m7i.xlarge", "0.12"), rate("c7g.large", "0.04"), rate("x9z.large", "0.01")}
	c.rates["sp-ec2"] = []sptypes.SavingsPlanRate{rate("m7i.large", "0.04")}
	c.used = []cetypes.SavingsPlansUtilizationDetail{
		{SavingsPlanArn: aws.String("arn:sp-compute"), Utilization: &cetypes.SavingsPlansUtilization{UsedCommitment: aws.String("86.4"), TotalCommitment: aws.String("144")}}, // 1.2 USD an hour over 72 h
		{SavingsPlanArn: aws.String("arn:sp-ec2"), Utilization: &cetypes.SavingsPlansUtilization{UsedCommitment: aws.String("72"), TotalCommitment: aws.String("72")}},
	}
	reserved := func(id, name string, count int32, change func(*types.ReservedInstances)) types.ReservedInstances {
		r := types.ReservedInstances{ReservedInstancesId: aws.String(id), InstanceType: types.InstanceType(name), InstanceCount: aws.Int32(count), ProductDescription: types.RIProductDescriptionLinuxUnix, InstanceTenancy: types.TenancyDefault,
			OfferingClass: types.OfferingClassTypeStandard, Scope: types.ScopeRegional, Start: aws.Time(now.Add(-24 * time.Hour)), End: aws.Time(now.Add(24 * 100 * time.Hour)), State: types.ReservedInstanceStateActive}
		if change != nil {
			change(&r)
		}
		return r
	}
	c.reserved = []types.ReservedInstances{
		reserved("ri-regional", "m7i.large", 10, nil),
		reserved("ri-zonal", "m7i.xlarge", 1, func(r *types.ReservedInstances) {
			r.Scope, r.AvailabilityZoneId, r.OfferingClass = types.ScopeAvailabilityZone, aws.String("use1-az4"), types.OfferingClassTypeConvertible
		}),
		reserved("ri-windows", "m7i.large", 1, func(r *types.ReservedInstances) { r.ProductDescription = types.RIProductDescriptionWindows }),
	}
	c.groups = []cetypes.ReservationUtilizationGroup{{Key: aws.String("SUBSCRIPTION_ID"), Value: aws.String("ri-regional"), Utilization: &cetypes.ReservationAggregates{UtilizationPercentage: aws.String("60")}}}
	c.running = []types.Instance{
		machine("m7i.large", false), machine("m7i.2xlarge", true), machine("c7g.large", false, "eks:eks-cluster-name", "prod", "karpenter.sh/nodepool", "default"),
		machine("m7i.xlarge", false, "eks:eks-cluster-name", "prod", "karpenter.sh/nodepool", "nops-default-commitment-1a2b"),
		machine("m7i.xlarge", false, "eks:eks-cluster-name", "other", "karpenter.sh/nodepool", "nops-default-commitment-9z9z"),
	}
	return c
}

func options(to string) karpenfeeder.Options {
	return karpenfeeder.Options{Region: region, Cluster: "prod", Families: []string{"m7i", "c7g"}, TargetVCPU: 64, Share: 0.5, To: to, Namespace: "nops",
		ValidFor: 45 * time.Minute, ScoresEvery: time.Hour, PricesEvery: 24 * time.Hour, Window: 24 * time.Hour, LogLevel: "info"}
}

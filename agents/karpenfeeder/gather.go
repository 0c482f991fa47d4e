package karpenfeeder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/costexplorer"
	cetypes "github.com/aws/aws-sdk-go-v2/service/costexplorer/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	pricingtypes "github.com/aws/aws-sdk-go-v2/service/pricing/types"
	"github.com/aws/aws-sdk-go-v2/service/savingsplans"
	sptypes "github.com/aws/aws-sdk-go-v2/service/savingsplans/types"
	"github.com/aws/smithy-go"
)

// AWS asks AWS. Region is that of the cluster; pricing and Cost Explorer are served in few.
type AWS struct {
	EC2     *ec2.Client
	Pricing *pricing.Client
	Plans   *savingsplans.Client
	Costs   *costexplorer.Client
}

// Regions in which AWS serves what is the same everywhere.
const (
	pricingRegion = "us-east-1"
	costsRegion   = "us-east-1"
)

// NewAWS makes the clients of one configuration.
func NewAWS(c aws.Config) *AWS {
	return &AWS{
		EC2:     ec2.NewFromConfig(c),
		Pricing: pricing.NewFromConfig(c, func(o *pricing.Options) { o.Region = pricingRegion }),
		Plans:   savingsplans.NewFromConfig(c),
		Costs:   costexplorer.NewFromConfig(c, func(o *costexplorer.Options) { o.Region = costsRegion }),
	}
}

// leastTypes is how many types a question for placement scores needs, or its answers come out low for no reason.
const leastTypes = 3

// pages collects what a paginator gives, and says what was asked when it fails.
func pages[P, T any](ctx context.Context, what string, more func() bool, next func(context.Context) (P, error), items func(P) []T) ([]T, error) {
	var all []T
	for more() {
		page, err := next(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		all = append(all, items(page)...)
	}
	return all, nil
}

// Market asks about the market. Scores that are fresh enough are taken from before.
func (a *AWS) Market(ctx context.Context, o Options, now time.Time, m Memory) (answers Answers, problems []string, err error) {
	answers = Answers{Region: o.Region, At: now, Target: o.TargetVCPU, Scores: map[string][]types.SpotPlacementScore{}, ScoredAt: map[string]time.Time{}}
	zones, err := a.EC2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
	if err != nil {
		return answers, nil, fmt.Errorf("ec2:DescribeAvailabilityZones: %w", err)
	}
	answers.Zones = zones.AvailabilityZones
	var patterns []string
	for _, f := range o.Families {
		patterns = append(patterns, f+".*")
	}
	kinds := ec2.NewDescribeInstanceTypesPaginator(a.EC2, &ec2.DescribeInstanceTypesInput{Filters: []types.Filter{
		{Name: aws.String("instance-type"), Values: patterns}, {Name: aws.String("bare-metal"), Values: []string{"false"}},
	}})
	if answers.Types, err = pages(ctx, "ec2:DescribeInstanceTypes", kinds.HasMorePages, func(ctx context.Context) (*ec2.DescribeInstanceTypesOutput, error) { return kinds.NextPage(ctx) },
		func(p *ec2.DescribeInstanceTypesOutput) []types.InstanceTypeInfo { return p.InstanceTypes }); err != nil {
		return answers, nil, err
	}
	byFamily := map[string][]string{}
	var names []types.InstanceType
	for _, t := range answers.Types {
		names = append(names, t.InstanceType)
		byFamily[family(string(t.InstanceType))] = append(byFamily[family(string(t.InstanceType))], string(t.InstanceType))
	}
	if len(names) == 0 {
		return answers, nil, fmt.Errorf("ec2:DescribeInstanceTypes: none of the families %s is offered in %s", strings.Join(o.Families, ", "), o.Region)
	}
	spot := ec2.NewDescribeSpotPriceHistoryPaginator(a.EC2, &ec2.DescribeSpotPriceHistoryInput{
		InstanceTypes: names, ProductDescriptions: []string{string(types.RIProductDescriptionLinuxUnix)}, StartTime: aws.Time(now),
	}) // from now: only what holds at present
	if answers.Spot, err = pages(ctx, "ec2:DescribeSpotPriceHistory", spot.HasMorePages, func(ctx context.Context) (*ec2.DescribeSpotPriceHistoryOutput, error) { return spot.NextPage(ctx) },
		func(p *ec2.DescribeSpotPriceHistoryOutput) []types.SpotPrice { return p.SpotPriceHistory }); err != nil {
		return answers, nil, err
	}
	for _, f := range o.Families {
		one, asked := m.Scores[f]
		switch fresh := asked && within(one.At, now, o.ScoresEvery); {
		case fresh:
		case len(byFamily[f]) < leastTypes:
			problems = append(problems, fmt.Sprintf("%s has %d types here, and placement scores of fewer than %d mean nothing", f, len(byFamily[f]), leastTypes))
			continue
		default:
			scores, err := a.scores(ctx, o, byFamily[f])
			if err != nil {
				// Prices without a score are worth having: unknown is not bad.
				problems = append(problems, fmt.Sprintf("placement scores of %s: %s", f, refusal(err)))
				if !asked {
					continue
				}
			} else {
				one = Scores{At: now.Unix(), ByZone: scores}
				m.Scores[f] = one
			}
		}
		if one.At > now.Unix() {
			continue // of a clock that was set back since: when it was observed is not known
		}
		for zone, score := range one.ByZone {
			answers.Scores[f] = append(answers.Scores[f], types.SpotPlacementScore{AvailabilityZoneId: aws.String(zone), Region: aws.String(o.Region), Score: aws.Int32(score)})
		}
		answers.ScoredAt[f] = time.Unix(one.At, 0)
	}
	for _, f := range o.Families {
		for _, name := range byFamily[f] {
			if price, there := m.Products[name]; there && within(price.At, now, o.PricesEvery) {
				answers.Products = append(answers.Products, price.Text...)
				continue
			}
			text, err := a.products(ctx, o.Region, name)
			if err != nil {
				return answers, problems, err
			}
			m.Products[name] = Product{At: now.Unix(), Text: text}
			answers.Products = append(answers.Products, text...)
		}
	}
	return answers, problems, nil
}

func (a *AWS) scores(ctx context.Context, o Options, names []string) (map[string]int32, error) {
	slices.Sort(names)
	p := ec2.NewGetSpotPlacementScoresPaginator(a.EC2, &ec2.GetSpotPlacementScoresInput{
		InstanceTypes: names, TargetCapacity: aws.Int32(int32(o.TargetVCPU)), TargetCapacityUnitType: types.TargetCapacityUnitTypeVcpu, //nolint:gosec // Validate bounds it
		SingleAvailabilityZone: aws.Bool(true), RegionNames: []string{o.Region},
	})
	all, err := pages(ctx, "ec2:GetSpotPlacementScores", p.HasMorePages, func(ctx context.Context) (*ec2.GetSpotPlacementScoresOutput, error) { return p.NextPage(ctx) },
		func(p *ec2.GetSpotPlacementScoresOutput) []types.SpotPlacementScore { return p.SpotPlacementScores })
	by := map[string]int32{}
	for _, s := range all {
		by[aws.ToString(s.AvailabilityZoneId)] = aws.ToInt32(s.Score)
	}
	return by, err
}

func (a *AWS) products(ctx context.Context, region, name string) ([]string, error) {
	var filters []pricingtypes.Filter
	for _, f := range [][2]string{{"instanceType", name}, {"regionCode", region}, {"operatingSystem", "Linux"}, {"tenancy", "Shared"}, {"preInstalledSw", "NA"}, {"capacitystatus", "Used"}} {
		filters = append(filters, pricingtypes.Filter{Type: pricingtypes.FilterTypeTermMatch, Field: aws.String(f[0]), Value: aws.String(f[1])})
	}
	p := pricing.NewGetProductsPaginator(a.Pricing, &pricing.GetProductsInput{ServiceCode: aws.String("AmazonEC2"), Filters: filters})
	return pages(ctx, "pricing:GetProducts of "+name, p.HasMorePages, func(ctx context.Context) (*pricing.GetProductsOutput, error) { return p.NextPage(ctx) },
		func(p *pricing.GetProductsOutput) []string { return p.PriceList })
}

// Holdings asks about commitments. What AWS does not let it know is left out and said; without the commitments themselves there is no document.
func (a *AWS) Holdings(ctx context.Context, o Options, now time.Time, kinds []types.InstanceTypeInfo) (h Holdings, problems []string, err error) {
	h = Holdings{Region: o.Region, At: now, Cluster: o.Cluster, Rates: map[string][]sptypes.SavingsPlanRate{}, VCPUs: map[string]int{}}
	for _, t := range kinds {
		if t.VCpuInfo != nil {
			h.VCPUs[string(t.InstanceType)] = int(aws.ToInt32(t.VCpuInfo.DefaultVCpus))
		}
	}
	for token := (*string)(nil); ; {
		out, err := a.Plans.DescribeSavingsPlans(ctx, &savingsplans.DescribeSavingsPlansInput{States: []sptypes.SavingsPlanState{sptypes.SavingsPlanStateActive}, NextToken: token})
		if err != nil {
			return h, nil, fmt.Errorf("savingsplans:DescribeSavingsPlans: %w", err)
		}
		h.Plans = append(h.Plans, out.SavingsPlans...)
		if token = out.NextToken; aws.ToString(token) == "" {
			break
		}
	}
	for _, p := range h.Plans {
		for token := (*string)(nil); ; {
			out, err := a.Plans.DescribeSavingsPlanRates(ctx, &savingsplans.DescribeSavingsPlanRatesInput{SavingsPlanId: p.SavingsPlanId, NextToken: token, Filters: []sptypes.SavingsPlanRateFilter{
				{Name: sptypes.SavingsPlanRateFilterNameRegion, Values: []string{o.Region}},
				{Name: sptypes.SavingsPlanRateFilterNameProductDescription, Values: []string{"Linux/UNIX"}},
				{Name: sptypes.SavingsPlanRateFilterNameTenancy, Values: []string{"shared"}},
			}})
			if err != nil {
				return h, nil, fmt.Errorf("savingsplans:DescribeSavingsPlanRates of %s: %w", aws.ToString(p.SavingsPlanId), err)
			}
			h.Rates[aws.ToString(p.SavingsPlanId)] = append(h.Rates[aws.ToString(p.SavingsPlanId)], out.SearchResults...)
			if token = out.NextToken; aws.ToString(token) == "" {
				break
			}
		}
	}
	reserved, err := a.EC2.DescribeReservedInstances(ctx, &ec2.DescribeReservedInstancesInput{Filters: []types.Filter{{Name: aws.String("state"), Values: []string{"active"}}}})
	if err != nil {
		return h, nil, fmt.Errorf("ec2:DescribeReservedInstances: %w", err)
	}
	h.Reserved = reserved.ReservedInstances
	running := ec2.NewDescribeInstancesPaginator(a.EC2, &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: aws.String("instance-state-name"), Values: []string{"running"}}}})
	if h.Running, err = pages(ctx, "ec2:DescribeInstances", running.HasMorePages, func(ctx context.Context) (*ec2.DescribeInstancesOutput, error) { return running.NextPage(ctx) },
		func(p *ec2.DescribeInstancesOutput) (all []types.Instance) {
			for _, r := range p.Reservations {
				all = append(all, r.Instances...)
			}
			return all
		}); err != nil {
		return h, nil, err
	}
	// Whole days that billing has closed: yesterday is seldom complete.
	const days = 3
	end := now.UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour)
	period := &cetypes.DateInterval{Start: aws.String(end.Add(-days * 24 * time.Hour).Format(time.DateOnly)), End: aws.String(end.Format(time.DateOnly))}
	h.Window = days * 24 * time.Hour
	if len(h.Plans) > 0 {
		used := costexplorer.NewGetSavingsPlansUtilizationDetailsPaginator(a.Costs, &costexplorer.GetSavingsPlansUtilizationDetailsInput{TimePeriod: period})
		if h.Used, err = pages(ctx, "ce:GetSavingsPlansUtilizationDetails", used.HasMorePages, func(ctx context.Context) (*costexplorer.GetSavingsPlansUtilizationDetailsOutput, error) {
			return used.NextPage(ctx)
		},
			func(p *costexplorer.GetSavingsPlansUtilizationDetailsOutput) []cetypes.SavingsPlansUtilizationDetail {
				return p.SavingsPlansUtilizationDetails
			}); err != nil {
			problems = append(problems, "use of Savings Plans by billing: "+refusal(err))
		}
	}
	if len(h.Reserved) > 0 {
		for token := (*string)(nil); ; {
			out, err := a.Costs.GetReservationUtilization(ctx, &costexplorer.GetReservationUtilizationInput{TimePeriod: period, NextPageToken: token,
				GroupBy: []cetypes.GroupDefinition{{Type: cetypes.GroupDefinitionTypeDimension, Key: aws.String("SUBSCRIPTION_ID")}}})
			if err != nil {
				problems = append(problems, "use of Reserved Instances by billing: "+refusal(err))
				break
			}
			for _, of := range out.UtilizationsByTime {
				h.Reservations = append(h.Reservations, of.Groups...)
			}
			if token = out.NextPageToken; aws.ToString(token) == "" {
				break
			}
		}
	}
	return h, problems, ctx.Err()
}

// refusal is AWS's own words, which fit in a line; the SDK's have request IDs besides.
func refusal(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode() + ": " + api.ErrorMessage()
	}
	return err.Error()
}

package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Labels that the simulator reads.
const (
	LabelType         = "node.kubernetes.io/instance-type"
	LabelZone         = "topology.kubernetes.io/zone"
	LabelCapacityType = "karpenter.sh/capacity-type"
	LabelPool         = "karpenter.sh/nodepool"
	LabelFamily       = "karpenter.k8s.aws/instance-family"

	Spot     = "spot"
	OnDemand = "on-demand"
)

// A requirement is one entry of a list of requirements. It is written apart from the planner's algebra on purpose: what the simulator
// marks as drifted must not be wrong in the same way as what the planner predicts.
type requirement struct {
	key, operator string
	values        map[string]bool
	bound         int
}

// holds says whether a node with these labels satisfies it. A label that a node lacks satisfies what asks for its absence, and NotIn.
func (r requirement) holds(labels map[string]string) bool {
	value, ok := labels[r.key]
	switch r.operator {
	case "In":
		return ok && r.values[value]
	case "NotIn":
		return !ok || !r.values[value]
	case "Exists":
		return ok
	case "DoesNotExist":
		return !ok
	}
	n, err := strconv.Atoi(value)
	if !ok || err != nil {
		return false
	}
	switch r.operator {
	case "Gt":
		return n > r.bound
	case "Lt":
		return n < r.bound
	case "Gte":
		return n >= r.bound
	case "Lte":
		return n <= r.bound
	}
	return false
}

func parseRequirements(list any) ([]requirement, error) {
	entries, _ := list.([]any)
	all := make([]requirement, 0, len(entries))
	for _, entry := range entries {
		o, _ := entry.(map[string]any)
		r := requirement{values: map[string]bool{}}
		r.key, _ = o["key"].(string)
		r.operator, _ = o["operator"].(string)
		values, _ := o["values"].([]any)
		last := ""
		for _, v := range values {
			text, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("requirement on %s: the value %v is no string", r.key, v)
			}
			r.values[text], last = true, text
		}
		switch r.operator {
		case "In", "NotIn", "Exists", "DoesNotExist":
		case "Gt", "Lt", "Gte", "Lte":
			if len(values) != 1 {
				return nil, fmt.Errorf("requirement on %s: %s takes one value, not %d", r.key, r.operator, len(values))
			}
			n, err := strconv.Atoi(last)
			if err != nil {
				return nil, fmt.Errorf("requirement on %s: %w", r.key, err)
			}
			r.bound = n
		default:
			return nil, fmt.Errorf("requirement on %s: no operator is called %q", r.key, r.operator)
		}
		all = append(all, r)
	}
	return all, nil
}

// Pool is a NodePool, as the API server would hold it, and what is read from it.
type Pool struct {
	Name   string
	Object map[string]any
	Weight int

	order            int
	requirements     []requirement
	labels           map[string]string // that its nodes carry besides those of their offering
	hash             string
	cpuLimit         int64 // thousandths; math.MaxInt64: none
	memoryLimit      int64 // MiB; likewise
	nodeLimit        int64
	whenEmpty        bool
	consolidateAfter time.Duration // negative: never
	budgets          []budget

	offerings []int32   // that fit the requirements
	prices    []float64 // of all offerings, as this pool sees them; nil: to be computed
}

// Copy is a deep copy of an object, as JSON has it.
func Copy(object map[string]any) map[string]any {
	copied, _ := copyValue(object).(map[string]any)
	return copied
}

func copyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		all := make(map[string]any, len(v))
		for key, value := range v {
			all[key] = copyValue(value)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, value := range v {
			all[i] = copyValue(value)
		}
		return all
	}
	return v
}

// Field reads a value below nested maps; nil is absent.
func Field(o map[string]any, path ...string) any {
	var v any = o
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// Number reads whatever JSON, YAML or Go may have made of a number.
func Number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// Quantity reads a Kubernetes quantity as far as NodePools' limits need it.
func Quantity(v any) (float64, error) {
	if n, ok := Number(v); ok {
		return n, nil
	}
	text, ok := v.(string)
	if !ok {
		return 0, fmt.Errorf("a quantity is a string or a number, not %T", v)
	}
	for _, unit := range []struct {
		suffix string
		factor float64
	}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"m", 1e-3}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"", 1}} {
		if number, ok := strings.CutSuffix(text, unit.suffix); ok {
			n, err := strconv.ParseFloat(number, 64)
			if err != nil {
				return 0, fmt.Errorf("quantity %q: %w", text, err)
			}
			return n * unit.factor, nil
		}
	}
	return 0, fmt.Errorf("quantity %q is not known", text)
}

// parsePool reads a NodePool; what it cannot read is an error, because Karpenter would not take the pool for usable either.
func parsePool(object map[string]any) (*Pool, error) {
	p := &Pool{Object: object, cpuLimit: math.MaxInt64, memoryLimit: math.MaxInt64, nodeLimit: math.MaxInt64, labels: map[string]string{}}
	p.Name, _ = Field(object, "metadata", "name").(string)
	if p.Name == "" {
		return nil, fmt.Errorf("a NodePool without a name")
	}
	weight, _ := Number(Field(object, "spec", "weight"))
	p.Weight = int(weight)
	template, _ := Field(object, "spec", "template").(map[string]any)
	var err error
	if p.requirements, err = parseRequirements(Field(template, "spec", "requirements")); err != nil {
		return nil, fmt.Errorf("NodePool %s: %w", p.Name, err)
	}
	labels, _ := Field(template, "metadata", "labels").(map[string]any)
	for key, value := range labels {
		p.labels[key], _ = value.(string)
	}
	for _, r := range p.requirements {
		if r.operator == "In" && len(r.values) == 1 {
			for value := range r.values {
				p.labels[r.key] = value
			}
		}
	}
	p.labels[LabelPool] = p.Name
	if p.hash, err = hash(template); err != nil {
		return nil, fmt.Errorf("NodePool %s: %w", p.Name, err)
	}
	limits, _ := Field(object, "spec", "limits").(map[string]any)
	for name, value := range limits {
		n, err := Quantity(value)
		if err != nil {
			return nil, fmt.Errorf("NodePool %s: limits.%s: %w", p.Name, name, err)
		}
		switch name {
		case "cpu":
			p.cpuLimit = int64(math.Round(n * 1000))
		case "memory":
			p.memoryLimit = int64(n / (1 << 20))
		case "nodes":
			p.nodeLimit = int64(n)
		}
	}
	disruption, _ := Field(object, "spec", "disruption").(map[string]any)
	p.whenEmpty = disruption["consolidationPolicy"] == "WhenEmpty"
	switch after, _ := disruption["consolidateAfter"].(string); after {
	case "":
	case "Never":
		p.consolidateAfter = -1
	default:
		if p.consolidateAfter, err = time.ParseDuration(after); err != nil {
			return nil, fmt.Errorf("NodePool %s: consolidateAfter: %w", p.Name, err)
		}
	}
	list, ok := disruption["budgets"].([]any)
	if !ok {
		list = []any{map[string]any{"nodes": "10%"}} // what the CRD's default is
	}
	for _, entry := range list {
		b, err := parseBudget(entry)
		if err != nil {
			return nil, fmt.Errorf("NodePool %s: %w", p.Name, err)
		}
		p.budgets = append(p.budgets, b)
	}
	return p, nil
}

// hash stands for Karpenter's hash of a NodePool: all of the template but the requirements. encoding/json sorts keys.
func hash(template map[string]any) (string, error) {
	shallow := maps.Clone(template)
	if spec, ok := template["spec"].(map[string]any); ok {
		spec = maps.Clone(spec)
		delete(spec, "requirements")
		shallow["spec"] = spec
	}
	text, err := json.Marshal(shallow)
	return string(text), err
}

// An overlay is a NodeOverlay: a price for what its requirements fit.
type overlay struct {
	name         string
	weight       int
	requirements []requirement
	price        float64 // negative: none
	percent      float64 // of the price
	add          float64
}

func parseOverlay(object map[string]any) (overlay, error) {
	o := overlay{price: -1, percent: 100}
	o.name, _ = Field(object, "metadata", "name").(string)
	weight, _ := Number(Field(object, "spec", "weight"))
	o.weight = int(weight)
	var err error
	if o.requirements, err = parseRequirements(Field(object, "spec", "requirements")); err != nil {
		return o, fmt.Errorf("NodeOverlay %s: %w", o.name, err)
	}
	if price, ok := Field(object, "spec", "price").(string); ok {
		if o.price, err = strconv.ParseFloat(price, 64); err != nil {
			return o, fmt.Errorf("NodeOverlay %s: price: %w", o.name, err)
		}
	}
	if adjustment, ok := Field(object, "spec", "priceAdjustment").(string); ok {
		number, percent := strings.CutSuffix(adjustment, "%")
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return o, fmt.Errorf("NodeOverlay %s: priceAdjustment: %w", o.name, err)
		}
		if percent {
			o.percent += n
		} else {
			o.add = n
		}
	}
	return o, nil
}

func (o overlay) apply(price float64) float64 {
	if o.price >= 0 {
		return o.price
	}
	return max(0, price*o.percent/100+o.add)
}

// A budget is one entry of spec.disruption.budgets.
type budget struct {
	percent  bool
	nodes    int
	reasons  []string // nil: all
	schedule *schedule
	duration time.Duration
}

func parseBudget(entry any) (budget, error) {
	o, _ := entry.(map[string]any)
	var b budget
	var err error
	switch nodes := o["nodes"].(type) {
	case string:
		number, percent := strings.CutSuffix(nodes, "%")
		b.percent = percent
		if b.nodes, err = strconv.Atoi(number); err != nil {
			return b, fmt.Errorf("budget: nodes: %w", err)
		}
	default:
		return b, fmt.Errorf("budget: nodes is a string, not %T", nodes)
	}
	if reasons, ok := o["reasons"].([]any); ok {
		for _, r := range reasons {
			text, _ := r.(string)
			b.reasons = append(b.reasons, text)
		}
	}
	if text, ok := o["schedule"].(string); ok {
		if b.schedule, err = parseSchedule(text); err != nil {
			return b, fmt.Errorf("budget: %w", err)
		}
		duration, _ := o["duration"].(string)
		if b.duration, err = time.ParseDuration(duration); err != nil {
			return b, fmt.Errorf("budget: duration: %w", err)
		}
	}
	return b, nil
}

// allowed is how many of so many nodes the budgets permit to disrupt for a reason: the least of those that are active.
func allowed(budgets []budget, at time.Time, nodes int, reason string) int {
	least := math.MaxInt32
	for _, b := range budgets {
		if b.reasons != nil && !slices.Contains(b.reasons, reason) {
			continue
		}
		if b.schedule != nil && !b.schedule.within(at, b.duration) {
			continue
		}
		n := b.nodes
		if b.percent {
			n = int(math.Ceil(float64(nodes) * float64(b.nodes) / 100)) // Karpenter rounds up
		}
		least = min(least, n)
	}
	return least
}

// A schedule is a cron expression of five fields in UTC, or one of its short names.
type schedule struct {
	minute, hour, day, month, weekday uint64
	anyDay, anyWeekday                bool

	asked  time.Time // the minute of the last answer
	answer bool
}

func parseSchedule(text string) (*schedule, error) {
	switch text {
	case "@hourly":
		text = "0 * * * *"
	case "@daily", "@midnight":
		text = "0 0 * * *"
	case "@weekly":
		text = "0 0 * * 0"
	case "@monthly":
		text = "0 0 1 * *"
	}
	fields := strings.Fields(text)
	if len(fields) != 5 {
		return nil, fmt.Errorf("schedule %q has %d fields, not five", text, len(fields))
	}
	s := &schedule{anyDay: fields[2] == "*", anyWeekday: fields[4] == "*"}
	for i, field := range []struct {
		bits     *uint64
		from, to int
	}{{&s.minute, 0, 59}, {&s.hour, 0, 23}, {&s.day, 1, 31}, {&s.month, 1, 12}, {&s.weekday, 0, 6}} {
		for _, part := range strings.Split(fields[i], ",") {
			span, every, stepped := strings.Cut(part, "/")
			step := 1
			var err error
			if stepped {
				if step, err = strconv.Atoi(every); err != nil || step < 1 {
					return nil, fmt.Errorf("schedule %q: the step %q", text, every)
				}
			}
			from, to := field.from, field.to
			if span != "*" {
				low, high, ranged := strings.Cut(span, "-")
				if from, err = strconv.Atoi(low); err != nil {
					return nil, fmt.Errorf("schedule %q: %w", text, err)
				}
				if to = from; ranged {
					if to, err = strconv.Atoi(high); err != nil {
						return nil, fmt.Errorf("schedule %q: %w", text, err)
					}
				} else if stepped {
					to = field.to
				}
			}
			if from < field.from || to > field.to || from > to {
				return nil, fmt.Errorf("schedule %q: %q is out of range", text, part)
			}
			for n := from; n <= to; n += step {
				*field.bits |= 1 << n
			}
		}
	}
	return s, nil
}

func (s *schedule) matches(at time.Time) bool {
	at = at.UTC()
	day, weekday := s.day>>at.Day()&1 == 1, s.weekday>>int(at.Weekday())&1 == 1
	if s.anyDay || s.anyWeekday {
		day = day && weekday
	} else {
		day = day || weekday // cron's old habit
	}
	return s.minute>>at.Minute()&1 == 1 && s.hour>>at.Hour()&1 == 1 && s.month>>int(at.Month())&1 == 1 && day
}

// within says whether the last time that it matched was less than so long ago.
func (s *schedule) within(at time.Time, duration time.Duration) bool {
	if at.Equal(s.asked) {
		return s.answer
	}
	s.asked, s.answer = at, false
	for t := at.Truncate(time.Minute); !s.answer && at.Sub(t) < duration; t = t.Add(-time.Minute) {
		s.answer = s.matches(t)
	}
	return s.answer
}

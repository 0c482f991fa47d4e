package offering

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Level says who minds a problem.
type Level string

// The levels, worst first.
const (
	Rejected Level = "rejected" // the API server answers 422
	NotReady Level = "notReady" // the API server accepts it; Karpenter sets ValidationSucceeded=False, and launches nothing
	Harmful  Level = "harmful"  // everybody accepts it and the NodePool stays Ready, but it does not do what anybody wants
)

// Reason is what kind of problem it is. Reasons are stable.
type Reason string

// The reasons.
const (
	ReasonMissing        Reason = "Missing"        // a required field
	ReasonType           Reason = "Type"           // of the wrong JSON type, or no such field
	ReasonOperator       Reason = "Operator"       // unknown
	ReasonKeySyntax      Reason = "KeySyntax"      // no label key
	ReasonKeyRestricted  Reason = "KeyRestricted"  // Karpenter's or the provider's own
	ReasonValueSyntax    Reason = "ValueSyntax"    // no label value, such as one of 64 characters
	ReasonNoValue        Reason = "NoValue"        // In, or a bound, without a value
	ReasonNotANumber     Reason = "NotANumber"     // a bound that is no whole number, or below 0
	ReasonMinValues      Reason = "MinValues"      // outside 1 to 50, or more than there are values
	ReasonTooMany        Reason = "TooMany"        // entries
	ReasonRange          Reason = "Range"          // a number out of its bounds
	ReasonFormat         Reason = "Format"         // of a text
	ReasonStatic         Reason = "Static"         // what static pools must not have
	ReasonImmutable      Reason = "Immutable"      // must not change
	ReasonDuplicate      Reason = "Duplicate"      // must be there once
	ReasonBothPrices     Reason = "BothPrices"     // price and priceAdjustment
	ReasonSchedule       Reason = "Schedule"       // a schedule without a duration, or the reverse
	ReasonUnknownValues  Reason = "UnknownValues"  // none of the values is one that the label has
	ReasonSomeUnknown    Reason = "SomeUnknown"    // one of the values is not
	ReasonEverything     Reason = "Everything"     // nothing is required
	ReasonContradiction  Reason = "Contradiction"  // the entries of a key leave no value
	ReasonNothingToAvoid Reason = "NothingToAvoid" // NotIn without values: means Exists
	ReasonIgnoredValues  Reason = "IgnoredValues"  // values of Exists or DoesNotExist
	ReasonNegative       Reason = "Negative"       // a limit below 0
	ReasonNameLength     Reason = "NameLength"     // of a NodePool: it becomes a label's value
	ReasonNoOffering     Reason = "NoOffering"     // the catalogue has nothing that fits
	ReasonUnmatched      Reason = "Unmatched"      // a value that no offering has
	ReasonNotMet         Reason = "NotMet"         // minValues by what the catalogue has
	ReasonNotKnown       Reason = "NotKnown"       // the catalogue says nothing of this label
)

// Problem is something wrong with a NodePool or NodeOverlay.
type Problem struct {
	Level  Level  `json:"level"`
	Reason Reason `json:"reason"`
	// AWS says that only the CRDs that come with the AWS provider reject it; those of Karpenter itself accept it.
	AWS     bool   `json:"aws,omitempty"`
	Path    string `json:"path"` // JSON pointer into the object
	Message string `json:"message"`
}

func (p Problem) String() string {
	return fmt.Sprintf("%s: %s (%s, %s)", p.Path, p.Message, p.Level, p.Reason)
}

// Problems are all that is wrong with something, in the order of what they are about.
type Problems []Problem

// Of are those of a level.
func (p Problems) Of(level Level) Problems {
	return slices.DeleteFunc(slices.Clone(p), func(q Problem) bool { return q.Level != level })
}

// RejectedBy says whether the API server would reject the object with the CRDs of the AWS provider (aws) or those of Karpenter itself.
func (p Problems) RejectedBy(aws bool) bool {
	return slices.ContainsFunc(p, func(q Problem) bool { return q.Level == Rejected && (aws || !q.AWS) })
}

func (p *Problems) add(level Level, reason Reason, path, format string, args ...any) {
	*p = append(*p, Problem{Level: level, Reason: reason, Path: path, Message: fmt.Sprintf(format, args...)})
}

// The patterns of the CRDs; those of labels are the same for all.
var (
	keyPattern         = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(\/))?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$`)
	valuePattern       = regexp.MustCompile(`^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`)
	quantityPattern    = regexp.MustCompile(`^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$`)
	durationPattern    = regexp.MustCompile(`^([0-9]+(s|m|h))+$`)
	budgetPattern      = regexp.MustCompile(`^((100|[0-9]{1,2})%|[0-9]+)$`)
	schedulePattern    = regexp.MustCompile(`^(@(annually|yearly|monthly|weekly|daily|midnight|hourly))|((.+)\s(.+)\s(.+)\s(.+)\s(.+))$`)
	budgetTimePattern  = regexp.MustCompile(`^((([0-9]+(h|m))|([0-9]+h[0-9]+m))(0s)?)$`)
	pricePattern       = regexp.MustCompile(`^\d+(\.\d+)?$`)
	adjustmentPattern  = regexp.MustCompile(`^(([+-]{1}(\d*\.?\d+))|(\+{1}\d*\.?\d+%)|(^(-\d{1,2}(\.\d+)?%)$)|(-100%))$`)
	groupPattern       = regexp.MustCompile(`^[^/]*$`)
	requirementsAt     = "/spec/template/spec/requirements"
	templateMetadataAt = "/spec/template/metadata"
)

// Problems are those of a list alone, at the path of a NodePool's requirements.
func (list Requirements) Problems() Problems {
	var p Problems
	list.check(&p, requirementsAt, false)
	return p
}

func (list Requirements) check(p *Problems, at string, overlay bool) {
	if len(list) > maxRequirements {
		p.add(Rejected, ReasonTooMany, at, "%d entries; at most %d are accepted", len(list), maxRequirements)
	}
	for i, r := range list {
		r.check(p, fmt.Sprintf("%s/%d", at, i), overlay)
	}
	if len(list) == 0 {
		if overlay {
			p.add(Harmful, ReasonEverything, at, "no requirement: the overlay is for every instance of every NodePool")
		} else {
			p.add(Harmful, ReasonEverything, at, "no requirement: the NodePool may launch every instance type there is, metal and GPU among them")
		}
	}
	if p.RejectedBy(true) {
		return // what is refused needs no other word
	}
	for _, key := range Compile(list).Nothing() {
		p.add(Harmful, ReasonContradiction, at, "the entries of %s leave no value: nothing can be launched, and every node drifts, while the NodePool stays Ready", key)
	}
}

func (r Requirement) check(p *Problems, at string, overlay bool) {
	if !slices.Contains([]Operator{In, NotIn, Exists, DoesNotExist, Gt, Lt, Gte, Lte}, r.Operator) {
		p.add(Rejected, ReasonOperator, at+"/operator", "%q is no operator", r.Operator)
	}
	checkKey(p, r.Key, at+"/key", overlay)
	for i, value := range r.Values {
		if errs := validation.IsValidLabelValue(value); len(errs) > 0 {
			p.add(NotReady, ReasonValueSyntax, fmt.Sprintf("%s/values/%d", at, i), "%s is no label value: %s", clip(value), strings.Join(errs, "; "))
		}
	}
	switch r.Operator {
	case In:
		if len(r.Values) == 0 {
			p.add(Rejected, ReasonNoValue, at+"/values", "In needs a value")
		}
	case NotIn:
		switch {
		case len(r.Values) > 0:
		case overlay:
			p.add(Rejected, ReasonNoValue, at+"/values", "NotIn needs a value")
		default:
			p.add(Harmful, ReasonNothingToAvoid, at+"/values", "NotIn without values excludes nothing, and means Exists: nodes without %s drift", r.Key)
		}
	case Gt, Lt, Gte, Lte:
		if len(r.Values) != 1 {
			p.add(Rejected, ReasonNoValue, at+"/values", "%s needs one value, not %d", r.Operator, len(r.Values))
		} else if n, err := strconv.ParseInt(r.Values[0], 10, 64); err != nil || n < 0 {
			p.add(Rejected, ReasonNotANumber, at+"/values/0", "%s needs a whole number of at least 0, not %s", r.Operator, clip(r.Values[0]))
		}
	case Exists, DoesNotExist:
		if len(r.Values) > 0 {
			p.add(Harmful, ReasonIgnoredValues, at+"/values", "%s takes no values: these are ignored", r.Operator)
		}
	}
	if least := r.MinValues; least != nil {
		switch {
		case *least < 1 || *least > 50:
			p.add(Rejected, ReasonMinValues, at+"/minValues", "%d is not within 1 to 50", *least)
		case r.Operator == In && len(r.Values) < *least:
			p.add(Rejected, ReasonMinValues, at+"/minValues", "%d of %d values", *least, len(r.Values))
		case r.Operator == In && len(sorted(r.Values)) < *least:
			p.add(Harmful, ReasonMinValues, at+"/minValues", "%d of %d values, as some come twice: nothing can be launched", *least, len(sorted(r.Values)))
		case r.Operator == DoesNotExist:
			p.add(Harmful, ReasonMinValues, at+"/minValues", "%d values of a label that must not exist: nothing can be launched", *least)
		}
	}
	r.checkKnown(p, at)
}

// checkKnown looks at labels whose values Karpenter knows.
func (r Requirement) checkKnown(p *Problems, at string) {
	var known []string
	switch Canonical(r.Key) {
	case LabelCapacityType:
		known = []string{"on-demand", "reserved", "spot"}
	case domainAWS + "/instance-tenancy":
		known = []string{"dedicated", "default"}
	default:
		return
	}
	if r.Operator != In || len(r.Values) == 0 {
		return
	}
	valid, bogus := split(r.Values, func(v string) bool { return slices.Contains(known, v) })
	switch {
	case len(valid) == 0:
		p.add(NotReady, ReasonUnknownValues, at+"/values", "%s has none of these values: it may be %s", r.Key, strings.Join(known, ", "))
	case r.MinValues != nil && len(valid) < *r.MinValues:
		p.add(NotReady, ReasonMinValues, at+"/minValues", "%d values that %s has, of %d", len(valid), r.Key, *r.MinValues)
	case len(bogus) > 0:
		p.add(Harmful, ReasonSomeUnknown, at+"/values", "%s is never %s: it may be %s", r.Key, some(bogus), strings.Join(known, ", "))
	}
}

// checkKey looks at a key of a requirement. Overlays may name the NodePool, and fewer labels of AWS.
func checkKey(p *Problems, key, at string, overlay bool) {
	if len(key) > 316 || !keyPattern.MatchString(key) {
		p.add(Rejected, ReasonKeySyntax, at, "%s is no label key", clip(key))
	} else if errs := validation.IsQualifiedName(Canonical(key)); len(errs) > 0 {
		p.add(NotReady, ReasonKeySyntax, at, "%s is no label key: %s", clip(key), strings.Join(errs, "; "))
	}
	restricted(p, key, at)
	if key == LabelNodePool && !overlay {
		p.add(Rejected, ReasonKeyRestricted, at, "%s is Karpenter's own", key)
	}
	// The CRDs of AWS allow what they know: https://github.com/aws/karpenter-provider-aws, hack/validation.
	name, isAWS := strings.CutPrefix(key, domainAWS+"/")
	listed := isAWS && (slices.Contains(awsLabels, name) || optional(key) || name == "ec2nodeclass")
	if overlay && (name == "instance-tenancy" || strings.HasPrefix(name, "capacity-reservation-") || strings.HasPrefix(name, "placement-group-")) {
		listed = false
	}
	if domain, _, _ := strings.Cut(key, "/"); strings.HasSuffix(domain, domainAWS) && !listed {
		*p = append(*p, Problem{Level: Rejected, Reason: ReasonKeyRestricted, AWS: true, Path: at, Message: fmt.Sprintf("%s is no label of the AWS provider, and its domain is reserved", key)})
	}
}

// restricted looks at what a key must not be anywhere: the CRDs go by how the domain ends, Karpenter by whole names.
func restricted(p *Problems, key, at string) {
	domain, _, slash := strings.Cut(key, "/")
	switch {
	case key == labelHostname:
		p.add(Rejected, ReasonKeyRestricted, at, "%s is the node's own", key)
	case key == LabelCapacityType || key == LabelNodePool:
	case strings.HasSuffix(domain, domainKarpenter):
		p.add(Rejected, ReasonKeyRestricted, at, "the domain of %s is Karpenter's own", key)
	case slash && !WellKnown(Canonical(key)) && (domain == domainAWS || strings.HasSuffix(domain, "."+domainAWS)):
		p.add(NotReady, ReasonKeyRestricted, at, "%s is no label that Karpenter lets a NodePool ask for, and its domain is reserved", key)
	}
}

// clip keeps messages readable.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(s[:most]) + fmt.Sprintf(" (%d characters)", len(s))
	}
	return strconv.Quote(s)
}

// Validate says what is wrong with a whole NodePool of karpenter.sh/v1, as far as it can be known without asking. before is what it
// was, or what it is copied from, for what must not change; nil: it is new. What would be rejected of before as well is not counted:
// the API server has accepted it, so its CRDs are of a version that knows more. It knows more anyway (unknown fields, for one): a dry
// run is asked all the same.
func Validate(nodePool, before map[string]any) Problems {
	found := validate(nodePool, before)
	if before == nil {
		return found
	}
	accepted := validate(before, nil).Of(Rejected)
	return slices.DeleteFunc(found, func(p Problem) bool { return p.Level == Rejected && slices.Contains(accepted, p) })
}

func validate(nodePool, before map[string]any) Problems {
	v := validator{}
	if name, _ := object(nodePool, "metadata")["name"].(string); len(name) > 63 {
		v.add(NotReady, ReasonNameLength, "/metadata/name", "%d characters: it becomes the label %s of nodes, which takes 63", len(name), LabelNodePool)
		v.Problems[len(v.Problems)-1].Level = Harmful // Karpenter does not look at it until it creates a NodeClaim
	}
	spec := v.object(nodePool, "spec", "", true)
	if spec == nil {
		return v.Problems
	}
	v.numbers(spec, before)
	v.disruption(spec)
	if template := v.object(spec, "template", "/spec", true); template != nil {
		v.template(template, object(before, "spec", "template"))
	}
	return v.Problems
}

type validator struct{ Problems }

func (v *validator) object(in map[string]any, field, at string, required bool) map[string]any {
	value, found := in[field]
	if !found || value == nil {
		if required {
			v.add(Rejected, ReasonMissing, at+"/"+field, "%s is required", field)
		}
		return nil
	}
	o, ok := value.(map[string]any)
	if !ok {
		v.add(Rejected, ReasonType, at+"/"+field, "%s is a %T, not an object", field, value)
	}
	return o
}

// text reads a string that must match; absent is "", false.
func (v *validator) text(in map[string]any, field, at string, pattern *regexp.Regexp, words string) (string, bool) {
	value, found := in[field]
	if !found || value == nil {
		return "", false
	}
	s, ok := value.(string)
	switch {
	case !ok:
		v.add(Rejected, ReasonType, at+"/"+field, "%v is not a string", value)
	case pattern != nil && !pattern.MatchString(s):
		v.add(Rejected, ReasonFormat, at+"/"+field, "%s is not %s", clip(s), words)
	}
	return s, ok
}

func (v *validator) list(in map[string]any, field, at string) []any {
	value, found := in[field]
	if !found || value == nil {
		return nil
	}
	list, ok := value.([]any)
	if !ok {
		v.add(Rejected, ReasonType, at+"/"+field, "%s is a %T, not a list", field, value)
	}
	return list
}

func (v *validator) numbers(spec, before map[string]any) {
	replicas, static := spec["replicas"]
	if _, was := object(before, "spec")["replicas"]; before != nil && was != static {
		v.add(Rejected, ReasonImmutable, "/spec/replicas", "a NodePool cannot become static or cease to be")
	}
	if static {
		if n, ok := integer(replicas); !ok || n < 0 {
			v.add(Rejected, ReasonRange, "/spec/replicas", "%v is not a number of at least 0", replicas)
		}
	}
	if weight, found := spec["weight"]; found {
		if n, ok := integer(weight); !ok || n < 1 || n > 100 {
			v.add(Rejected, ReasonRange, "/spec/weight", "%v is not within 1 to 100", weight)
		}
		if static {
			v.add(Rejected, ReasonStatic, "/spec/weight", "a static NodePool has no weight")
		}
	}
	limits := v.object(spec, "limits", "/spec", false)
	if static && len(limits) > 0 && (len(limits) > 1 || limits["nodes"] == nil) {
		v.add(Rejected, ReasonStatic, "/spec/limits", "a static NodePool has no limit but that of nodes")
	}
	for _, name := range sortedKeys(limits) {
		at, text := "/spec/limits/"+escape(name), fmt.Sprint(limits[name])
		_, whole := integer(limits[name])
		_, isText := limits[name].(string)
		switch {
		case !whole && (!isText || !quantityPattern.MatchString(text)):
			v.add(Rejected, ReasonFormat, at, "%s is not a quantity", clip(text))
		case strings.HasPrefix(text, "-"):
			v.add(Harmful, ReasonNegative, at, "%s is below 0: nothing can be launched", text)
		}
	}
}

func (v *validator) disruption(spec map[string]any) {
	const at = "/spec/disruption"
	disruption := v.object(spec, "disruption", "/spec", false)
	if disruption == nil {
		return
	}
	if _, found := v.text(disruption, "consolidateAfter", at, nil, ""); !found && disruption["consolidateAfter"] == nil {
		v.add(Rejected, ReasonMissing, at+"/consolidateAfter", "consolidateAfter is required")
	}
	v.orNever(disruption, "consolidateAfter", at)
	if policy, found := v.text(disruption, "consolidationPolicy", at, nil, ""); found && !slices.Contains([]string{"WhenEmpty", "WhenEmptyOrUnderutilized", "Balanced"}, policy) {
		v.add(Rejected, ReasonFormat, at+"/consolidationPolicy", "%s is no policy", clip(policy))
	}
	budgets := v.list(disruption, "budgets", at)
	if len(budgets) > 50 {
		v.add(Rejected, ReasonTooMany, at+"/budgets", "%d budgets; at most 50 are accepted", len(budgets))
	}
	for i, item := range budgets {
		at := fmt.Sprintf("%s/budgets/%d", at, i)
		budget, ok := item.(map[string]any)
		if !ok {
			v.add(Rejected, ReasonType, at, "%v is not an object", item)
			continue
		}
		v.text(budget, "nodes", at, budgetPattern, `a number or a percentage up to "100%"`)
		v.text(budget, "schedule", at, schedulePattern, "a schedule")
		v.text(budget, "duration", at, budgetTimePattern, "a duration in hours and minutes")
		if (budget["schedule"] == nil) != (budget["duration"] == nil) {
			v.add(Rejected, ReasonSchedule, at, "schedule and duration go together")
		}
		reasons := v.list(budget, "reasons", at)
		if len(reasons) > 50 {
			v.add(Rejected, ReasonTooMany, at+"/reasons", "%d reasons; at most 50 are accepted", len(reasons))
		}
		seen := map[any]bool{}
		for j, reason := range reasons {
			switch text, ok := reason.(string); {
			case !ok || !slices.Contains([]string{"Underutilized", "Empty", "Drifted"}, text):
				v.add(Rejected, ReasonFormat, fmt.Sprintf("%s/reasons/%d", at, j), "%v is not Underutilized, Empty or Drifted", reason)
			case seen[text]:
				v.add(Rejected, ReasonDuplicate, fmt.Sprintf("%s/reasons/%d", at, j), "%s comes twice", text)
			default:
				seen[text] = true
			}
		}
	}
}

func (v *validator) orNever(in map[string]any, field, at string) {
	if in[field] != "Never" {
		v.text(in, field, at, durationPattern, `a duration such as "720h" (no days), or "Never"`)
	}
}

func (v *validator) template(template, before map[string]any) {
	v.metadata(template)
	const at = "/spec/template/spec"
	spec := v.object(template, "spec", "/spec/template", true)
	if spec == nil {
		return
	}
	v.orNever(spec, "expireAfter", at)
	v.text(spec, "terminationGracePeriod", at, durationPattern, `a duration such as "1h"`)
	v.nodeClass(spec, object(before, "spec", "nodeClassRef"))
	v.taints(spec)
	list, found := spec["requirements"]
	if !found || list == nil {
		v.add(Rejected, ReasonMissing, requirementsAt, "requirements are required")
		return
	}
	requirements, err := Decode(list)
	if err != nil {
		v.add(Rejected, ReasonType, requirementsAt, "%s", err)
		return
	}
	requirements.check(&v.Problems, requirementsAt, false)
	labels, _ := stringMap(object(template, "metadata")["labels"])
	own, all := Compile(requirements).Nothing(), Compile(requirements).And(CompileLabels(labels)).Nothing()
	for _, key := range all {
		if !slices.Contains(own, key) {
			v.add(Harmful, ReasonContradiction, templateMetadataAt+"/labels/"+escape(key), "the label is none of what the requirements leave of %s: nothing can be launched", key)
		}
	}
}

func (v *validator) metadata(template map[string]any) {
	metadata := v.object(template, "metadata", "/spec/template", false)
	v.object(metadata, "annotations", templateMetadataAt, false)
	if _, ok := stringMap(metadata["annotations"]); !ok {
		v.add(Rejected, ReasonType, templateMetadataAt+"/annotations", "annotations are strings")
	}
	v.object(metadata, "labels", templateMetadataAt, false)
	labels, ok := stringMap(metadata["labels"])
	if !ok {
		v.add(Rejected, ReasonType, templateMetadataAt+"/labels", "labels are strings")
	}
	if len(labels) > 100 {
		v.add(Rejected, ReasonTooMany, templateMetadataAt+"/labels", "%d labels; at most 100 are accepted", len(labels))
	}
	for _, key := range sortedKeys(labels) {
		at := templateMetadataAt + "/labels/" + escape(key)
		if errs := validation.IsQualifiedName(key); len(errs) > 0 {
			v.add(NotReady, ReasonKeySyntax, at, "%s is no label key: %s", clip(key), strings.Join(errs, "; "))
		}
		if value := labels[key]; len([]rune(value)) > 63 || !valuePattern.MatchString(value) {
			v.add(Rejected, ReasonValueSyntax, at, "%s is no label value", clip(value))
		}
		if key == LabelNodePool {
			v.add(Rejected, ReasonKeyRestricted, at, "%s is Karpenter's own", key)
		}
		restricted(&v.Problems, key, at)
		name, isAWS := strings.CutPrefix(key, domainAWS+"/")
		if domain, _, _ := strings.Cut(key, "/"); strings.HasSuffix(domain, domainAWS) && (!isAWS || !slices.Contains(awsLabels, name) && !optional(key) && name != "ec2nodeclass") {
			v.add(Rejected, ReasonKeyRestricted, at, "%s is no label of the AWS provider, and its domain is reserved", key)
			v.Problems[len(v.Problems)-1].AWS = true
		}
	}
}

func stringMap(value any) (map[string]string, bool) {
	m, _ := value.(map[string]any)
	texts, ok := make(map[string]string, len(m)), true
	for key, value := range m {
		text, isText := value.(string)
		texts[key], ok = text, ok && isText
	}
	return texts, ok
}

func (v *validator) nodeClass(spec, before map[string]any) {
	const at = "/spec/template/spec/nodeClassRef"
	ref := v.object(spec, "nodeClassRef", "/spec/template/spec", true)
	if ref == nil {
		return
	}
	for _, field := range []string{"group", "kind", "name"} {
		pattern := (*regexp.Regexp)(nil)
		if field == "group" {
			pattern = groupPattern
		}
		if text, _ := v.text(ref, field, at, pattern, "without a slash"); text == "" {
			v.add(Rejected, ReasonMissing, at+"/"+field, "%s is required", field)
		}
		if field != "name" && before != nil && ref[field] != before[field] {
			v.add(Rejected, ReasonImmutable, at+"/"+field, "%s cannot change", field)
		}
	}
}

func (v *validator) taints(spec map[string]any) {
	seen := map[[2]string]bool{}
	for _, field := range []string{"taints", "startupTaints"} {
		for i, item := range v.list(spec, field, "/spec/template/spec") {
			at := fmt.Sprintf("/spec/template/spec/%s/%d", field, i)
			taint, ok := item.(map[string]any)
			if !ok {
				v.add(Rejected, ReasonType, at, "%v is not an object", item)
				continue
			}
			key, _ := v.text(taint, "key", at, keyPattern, "a label key")
			effect, _ := v.text(taint, "effect", at, nil, "")
			value, valued := v.text(taint, "value", at, keyPattern, "like a label key")
			if taint["key"] == nil {
				v.add(Rejected, ReasonMissing, at+"/key", "key is required")
			} else if errs := validation.IsQualifiedName(key); len(errs) > 0 && keyPattern.MatchString(key) {
				v.add(NotReady, ReasonKeySyntax, at+"/key", "%s is no label key: %s", clip(key), strings.Join(errs, "; "))
			}
			if errs := validation.IsQualifiedName(value); valued && value != "" && len(errs) > 0 && keyPattern.MatchString(value) {
				v.add(NotReady, ReasonValueSyntax, at+"/value", "%s: %s", clip(value), strings.Join(errs, "; "))
			}
			if !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, effect) {
				v.add(Rejected, ReasonFormat, at+"/effect", "%s is no effect", clip(effect))
			}
			if seen[[2]string{key, effect}] {
				v.add(NotReady, ReasonDuplicate, at, "%s comes twice with effect %s", key, effect)
			}
			seen[[2]string{key, effect}] = true
		}
	}
}

// ValidateOverlay says what is wrong with a NodeOverlay of karpenter.sh/v1alpha1.
func ValidateOverlay(overlay map[string]any) Problems {
	v := validator{}
	spec := v.object(overlay, "spec", "", true)
	if spec == nil {
		return v.Problems
	}
	v.text(spec, "price", "/spec", pricePattern, `a price such as "0.05"`)
	v.text(spec, "priceAdjustment", "/spec", adjustmentPattern, `an adjustment such as "-10%" or "+0.01", with its sign, and not below -100%`)
	if spec["price"] != nil && spec["priceAdjustment"] != nil {
		v.add(Rejected, ReasonBothPrices, "/spec", "price and priceAdjustment exclude each other")
	}
	if weight, found := spec["weight"]; found {
		if n, ok := integer(weight); !ok || n < 1 || n > 10000 {
			v.add(Rejected, ReasonRange, "/spec/weight", "%v is not within 1 to 10000", weight)
		}
	}
	for _, name := range sortedKeys(v.object(spec, "capacity", "/spec", false)) {
		if slices.Contains([]string{"cpu", "memory", "ephemeral-storage", "pods"}, name) {
			v.add(Rejected, ReasonKeyRestricted, "/spec/capacity/"+name, "an overlay adds extended resources only")
		}
	}
	list, found := spec["requirements"]
	if !found || list == nil {
		v.add(Rejected, ReasonMissing, "/spec/requirements", "requirements are required")
		return v.Problems
	}
	requirements, err := Decode(list)
	if err != nil {
		v.add(Rejected, ReasonType, "/spec/requirements", "%s", err)
		return v.Problems
	}
	requirements.check(&v.Problems, "/spec/requirements", true)
	return v.Problems
}

// Check is what is wrong with a NodePool beside Validate, by what can be bought: a typing error, minValues that are not there, nothing left.
func (c *Catalogue) Check(p Pool) Problems {
	var found Problems
	e := c.Effective(p)
	for _, u := range e.Unmatched {
		at, hint := fmt.Sprintf("%s/%d/values", requirementsAt, u.Entry), ""
		if u.Entry < 0 {
			at = templateMetadataAt + "/labels/" + escape(u.Key)
		}
		if u.Near != "" {
			hint = fmt.Sprintf("; %s is meant?", u.Near)
		}
		found.add(Harmful, ReasonUnmatched, at, "no offering has %s %s%s", u.Key, clip(u.Value), hint)
	}
	for _, key := range e.Unknown {
		found.add(Harmful, ReasonNotKnown, requirementsAt, "what %s excludes is not known: the market does not say which types have which value", key)
	}
	if e.Set.IsEmpty() && len(e.Required.Nothing()) == 0 {
		found.add(Harmful, ReasonNoOffering, requirementsAt, "nothing that can be bought fits: nothing can be launched, while the NodePool stays Ready")
	}
	for _, u := range e.Unmet {
		if !e.Set.IsEmpty() {
			found.add(Harmful, ReasonNotMet, requirementsAt, "minValues asks for %d values of %s, and %d are left: with the policy Strict nothing can be launched", u.Want, u.Key, u.Have)
		}
	}
	return found
}

package offering

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMatches(t *testing.T) {
	node := map[string]string{LabelFamily: "m5", LabelZone: "us-east-1a", LabelCapacityType: "spot", LabelCPU: "4", LabelInstanceType: "m5.xlarge", "beta.kubernetes.io/instance-type": "m5.large"}
	for _, c := range []struct {
		name, reason string
		list         Requirements
		want         bool
	}{
		{"empty", "nothing is required", nil, true},
		{"in", "the family is listed", Requirements{{Key: LabelFamily, Operator: In, Values: []string{"c5", "m5"}}}, true},
		{"not listed", "the family is not", Requirements{{Key: LabelFamily, Operator: In, Values: []string{"c5"}}}, false},
		{"custom in", "a label that the node lacks is not known to have the value", Requirements{{Key: "team", Operator: In, Values: []string{"a"}}}, false},
		{"custom not in", "what is not there is not excluded", Requirements{{Key: "team", Operator: NotIn, Values: []string{"a"}}}, true},
		{"custom not in nothing", "Karpenter takes it for Exists", Requirements{{Key: "team", Operator: NotIn}}, false},
		{"exists", "the node has it", Requirements{{Key: LabelZone, Operator: Exists}}, true},
		{"well-known exists", "drift does not let well-known labels be absent", Requirements{{Key: LabelArch, Operator: Exists}}, false},
		{"absent", "the node has no such label", Requirements{{Key: "team", Operator: DoesNotExist}}, true},
		{"present", "the node has it", Requirements{{Key: LabelZone, Operator: DoesNotExist}}, false},
		{"contradiction", "no value is left", Requirements{{Key: LabelFamily, Operator: In, Values: []string{"m5"}}, {Key: LabelFamily, Operator: NotIn, Values: []string{"m5"}}}, false},
		{"contradiction about an absent label", "Karpenter takes what is left for DoesNotExist", Requirements{{Key: "team", Operator: In, Values: []string{"a"}}, {Key: "team", Operator: In, Values: []string{"b"}}}, true},
		{"gt", "4 is not more than 4", Requirements{{Key: LabelCPU, Operator: Gt, Values: []string{"4"}}}, false},
		{"gte", "4 is at least 4", Requirements{{Key: LabelCPU, Operator: Gte, Values: []string{"4"}}}, true},
		{"lt", "4 is not less than 4", Requirements{{Key: LabelCPU, Operator: Lt, Values: []string{"4"}}}, false},
		{"lte", "4 is at most 4", Requirements{{Key: LabelCPU, Operator: Lte, Values: []string{"4"}}}, true},
		{"number of a word", "a value that is no number is in no range", Requirements{{Key: LabelFamily, Operator: Gt, Values: []string{"0"}}}, false},
		{"old name", "the old name stands for the new one", Requirements{{Key: "failure-domain.beta.kubernetes.io/zone", Operator: In, Values: []string{"us-east-1a"}}}, true},
		{"excluded number beyond a bound", "it is dropped, so the label has to exist", Requirements{{Key: "n", Operator: NotIn, Values: []string{"3"}}, {Key: "n", Operator: Gt, Values: []string{"5"}}}, false},
		{"excluded number within a bound", "it stays, and what is excluded may be absent", Requirements{{Key: "n", Operator: NotIn, Values: []string{"7"}}, {Key: "n", Operator: Gt, Values: []string{"5"}}}, true},
		{"above the largest number", "what nothing satisfies is taken for DoesNotExist", Requirements{{Key: "n", Operator: Gt, Values: []string{"9223372036854775807"}}}, true},
		{"old and new name differ", "no value is left", Requirements{{Key: LabelInstanceType, Operator: Exists}}, false},
		{"old and new name differ from what is excluded", "what is not left is not excluded", Requirements{{Key: LabelInstanceType, Operator: NotIn, Values: []string{"m5.large"}}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Compile(c.list).Matches(node); got != c.want {
				t.Errorf("matches: %v, want %v: %s", got, c.want, c.reason)
			}
			if misfits := Compile(c.list).Misfits(node); (len(misfits) == 0) != c.want {
				t.Errorf("misfits %v, want match %v", misfits, c.want)
			}
		})
	}
}

func TestFolding(t *testing.T) {
	for _, tc := range []struct{ list, want Requirements }{
		{Requirements{{Key: "n", Operator: Gt, Values: []string{"4"}, MinValues: new(2)}, {Key: "n", Operator: Lte, Values: []string{"5"}, MinValues: new(3)}},
			Requirements{{Key: "n", Operator: Gte, Values: []string{"5"}, MinValues: new(3)}, {Key: "n", Operator: Lte, Values: []string{"5"}, MinValues: new(3)}}},
		{Requirements{{Key: "n", Operator: Gt, Values: []string{"4"}}, {Key: "n", Operator: NotIn, Values: []string{"9", "3"}}}, Requirements{{Key: "n", Operator: Gte, Values: []string{"5"}}}},
		{Requirements{{Key: "n", Operator: Gt, Values: []string{"9223372036854775807"}, MinValues: new(2)}}, Requirements{{Key: "n", Operator: DoesNotExist}}},
		{Requirements{{Key: "n", Operator: In, Values: []string{"4", "8", "x", "4"}}, {Key: "n", Operator: Lt, Values: []string{"8"}}}, Requirements{{Key: "n", Operator: In, Values: []string{"4"}}}},
		{Requirements{{Key: "b", Operator: Exists}, {Key: "a", Operator: NotIn, Values: []string{"y", "x"}}}, Requirements{{Key: "a", Operator: NotIn, Values: []string{"x", "y"}}, {Key: "b", Operator: Exists}}},
	} {
		if diff := cmp.Diff(tc.want, Compile(tc.list).Requirements()); diff != "" {
			t.Errorf("%v: %s", tc.list, diff)
		}
	}
}

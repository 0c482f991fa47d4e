package push

import (
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Bounds are a request and what is close enough to it: CPU in millicores, memory in bytes.
type Bounds struct{ Lower, Target, Upper int64 }

// RulePlatform is the rule of the steps that the platform's recommendation makes: what it recommends first, then what that was raised to.
const RulePlatform = "platform"

// Inputs are what is known of one resource of one container.
type Inputs struct {
	Resource string // cpu, memory
	// Local is what the local model says.
	Local Bounds
	// Platform is what the platform recommends; a Target of 0 is nothing. Lower and Upper of 0 are not known.
	Platform Bounds
	// Peak is the most memory that was used here; 0 of CPU, of which less makes slow and kills nobody.
	Peak int64
	// OOM is what the container needs at least since it ran out of memory; 0 is that it did not.
	OOM int64
}

// Merge is max(platform, local lower bound, peak, OOM) where the platform recommends something, and max(local, OOM) where it does not. The peak
// counts as far as the local target: a level may leave the highest out, and the platform no more than the level. The steps say what made the target
// another than the local one, in order.
func Merge(in Inputs) (Bounds, []rightsizing.Adjustment) {
	var steps []rightsizing.Adjustment
	note := func(rule, why string, to int64) {
		steps = append(steps, rightsizing.Adjustment{Rule: rule, Why: why, To: Quantity(in.Resource, to)})
	}
	b := in.Local
	if p := in.Platform; p.Target > 0 {
		b = p
		if b.Lower <= 0 || b.Lower > b.Target {
			b.Lower = min(in.Local.Lower, b.Target)
		}
		if b.Upper < b.Target {
			b.Upper = max(in.Local.Upper, b.Target)
		}
		local := Quantity(in.Resource, in.Local.Target)
		note(RulePlatform, "the platform recommends it from weeks of usage; the local model says "+local.String(), b.Target)
		least, why := in.Local.Lower, "the local model holds less for unsafe: its lower bound"
		if peak := min(in.Peak, in.Local.Target); peak > least {
			least, why = peak, "pods needed more here of late"
		}
		if least > b.Target {
			b.Target = least
			note(RulePlatform, why, b.Target)
		}
		// What the local model holds for too little is too little whatever the platform says.
		b.Lower = max(b.Lower, min(in.Local.Lower, b.Target))
	}
	if in.OOM > b.Target {
		b.Target = in.OOM
		note("oom", "a container ran out of memory with less", b.Target)
	}
	// A pod below what was needed when one ran out of memory is to be raised, not held for close enough.
	b.Lower = max(b.Lower, min(in.OOM, b.Target))
	b.Upper = max(b.Upper, b.Target)
	b.Lower = min(b.Lower, b.Target)
	return b, steps
}

// Quantity is an amount of a resource as requests are written.
func Quantity(name string, amount int64) resource.Quantity {
	if name == "cpu" {
		return *resource.NewMilliQuantity(amount, resource.DecimalSI)
	}
	return *resource.NewQuantity(amount, resource.BinarySI)
}

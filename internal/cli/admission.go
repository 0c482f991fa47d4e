package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify"
	"github.com/nopsctl/nopsctl/pkg/verify/lock"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// warnUnverified says that nobody checks signatures.
const warnUnverified = "NOPS-SIG-002"

// warnChart says that a chart is installed that does not verify.
const warnChart = "NOPS-SIG-003"

// warnPolicy says that a policy says something that it probably does not mean.
const warnPolicy = "NOPS-SIG-004"

// admitFlags are trustFlags of commands that install.
type admitFlags struct {
	trustFlags

	asked          string // as it was given
	lockFile       string
	lock           *lock.Lock
	mode           string // as it is decided: enforce, warn or off
	allowDowngrade bool
}

func (a *admitFlags) bind(cmd *cobra.Command) {
	a.trustFlags.bind(cmd)
	a.bindMode(cmd)
	cmd.Flags().StringVar(&a.lockFile, "lock", "", "install exactly what this nopsctl.lock.yaml holds, whatever tags mean by now (nopsctl verify --write-lock makes one)")
	cmd.Flags().BoolVar(&a.allowDowngrade, "allow-downgrade", false, "accept images that were signed before those that run now")
}

func (a *admitFlags) bindMode(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.asked, "verify", "", "what to do about images that the policy does not let pass: enforce, warn or off (default: enforce where there is a policy)")
	_ = cmd.RegisterFlagCompletionFunc("verify", cobra.FixedCompletions([]string{"enforce", "warn", "off"}, cobra.ShellCompDirectiveNoFileComp))
}

// read reads the policy and decides the mode.
func (a *admitFlags) read(f *Factory, bundle []byte) error {
	if err := a.notEmpty("lock", a.lockFile); err != nil {
		return err
	}
	a.mode = a.asked
	if a.mode == "off" && a.lockFile != "" {
		return usage("--lock and --verify=off exclude each other")
	}
	if a.mode == "off" { // the policy is not even read: it may be what does not work
		var err error
		a.bundle = bundle
		a.mirrored, err = parseMirrors(a.mirrors)
		return err
	}
	if err := a.trustFlags.read(f, bundle); err != nil {
		return err
	}
	if a.lockFile != "" {
		if a.collected == nil {
			return noPolicy("--lock needs a policy")
		}
		data, err := f.ReadFile(a.lockFile)
		if err != nil {
			return &failure{class: "usage", reason: "--lock", err: err}
		}
		l, err := lock.Read(data)
		if err != nil {
			return &failure{class: "usage", reason: "--lock " + a.lockFile, err: err, advice: "nopsctl verify --write-lock makes one"}
		}
		a.lock = &l
	}
	switch a.mode {
	case "":
		a.mode = string(verify.Enforce)
		if a.collected == nil {
			a.mode = "off"
		}
	case string(verify.Enforce), string(verify.Warn):
		if a.collected == nil {
			return noPolicy("--verify=" + a.mode + " needs a policy")
		}
	default:
		return usage("--verify %q: expected enforce, warn or off", a.mode)
	}
	return nil
}

// admission lets the installer install what the policy lets pass. Nil where nothing is verified.
func (f *Factory) admission(a *admitFlags, source oci.Shelf, op *operation) (install.Admission, error) {
	if a.collected == nil {
		return nil, nil
	}
	v, err := f.verifier(&a.trustFlags, source, nil)
	if err != nil {
		return nil, err
	}
	a.tellPolicy(op)
	mode := verify.Mode(a.mode)
	return install.AdmissionFunc(func(ctx context.Context, images []ref.Reference) (install.AdmissionResult, error) {
		report, err := f.verifyAll(ctx, v, op, images)
		if err != nil {
			return install.AdmissionResult{}, err
		}
		result := install.AdmissionResult{Enforced: mode == verify.Enforce, Policy: a.collected.Hash}
		for _, r := range report.Results {
			admitted, ok := v.Admit(r, mode)
			if !ok {
				result.Images = append(result.Images, install.Decision{Outcome: string(r.Outcome), Reason: string(r.Reason), Message: r.Message, Hint: r.Hint})
				continue
			}
			result.Images = append(result.Images, install.Decision{Admitted: admitted})
		}
		return result, nil
	}), nil
}

// unverified is said where nobody checks signatures.
func (a *admitFlags) unverified() event.Warning {
	w := event.Warning{ID: warnUnverified, Message: "signatures of images are not checked: no policy says who must have signed them", Hint: "name one with --policy FILE; nopsctl verify example-policy prints one to begin with"}
	if a.asked == "off" {
		w.Message, w.Hint = "signatures of images are not checked: --verify=off", ""
	}
	return w
}

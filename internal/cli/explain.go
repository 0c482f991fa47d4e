package cli

import (
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/connectivity"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify"
)

// Explanation is what an ID means.
type Explanation struct {
	SchemaVersion int    `json:"schema_version"`
	ID            string `json:"id"`
	Title         string `json:"title"`
	Where         string `json:"where"`
	Stage         string `json:"stage,omitempty"`
	About         string `json:"about"`
	Hint          string `json:"hint,omitempty"`
}

// Explanations are all IDs that nopsctl shows: checks of preflight, checks of connectivity, warnings.
func Explanations() []Explanation {
	var all []Explanation
	for _, c := range install.Checks() {
		all = append(all, Explanation{1, c.ID, c.Title, "preflight", "", c.What, c.Fix})
	}
	for _, d := range connectivity.Catalog() {
		all = append(all, Explanation{1, string(d.ID), d.Title, "test-connectivity, " + d.Leg.Title(), d.Stage, d.About, d.Hint})
	}
	all = append(all, warningIDs()...)
	sort.SliceStable(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all
}

// warningIDs documents the warnings about values and about this command line.
func warningIDs() []Explanation {
	return []Explanation{
		{1, "NOPS-IMG-001", "a tag has moved", "install", "", "The registry gives other bytes for a tag than those that the release runs under it. They were verified like any others, but tags of releases do not move by themselves.", "Ask whoever publishes the image; name a version that was not changed afterwards."},
		{1, "NOPS-IMG-002", "an image comes by its tag alone", "install, enable", "", "The release runs images by digest, and this one comes by its tag, so that nobody knows what a node will pull: nothing verified it (no policy was given), or it stands in a hook or in crds/, which Helm applies as the chart has them.", "Give the policy that the release was installed with (--policy); have the chart name images of hooks by digest."},
		{1, "NOPS-IMG-003", "an image was signed before the one that it replaces", "install, enable", "", "An old version has an old and good signature, and somebody may serve it as a new one. The signature's time is compared with that of the image that was accepted last under the same name (ConfigMap nops-image-lock). Where signatures are enforced it is refused; this warning says that it was not enforced, or accepted with --allow-downgrade.", "Name the newer version, unless you go back on purpose."},
		{1, "NOPS-IMG-004", "what looks like an image was not verified", "install, enable", "", "Programs may run images that no pod names: an operator takes them from arguments, from a ConfigMap or from an object of its own. In arguments and environment they are verified and pinned if a registry has them; elsewhere they can only be told of.", "Name them by digest, or switch off what needs them."},
		{1, "NOPS-VAL-001", "a stored value is unknown", "values", "", "The release has a value stored that this chart does not know. Helm accepted it without a word. It has no effect.", "Remove it from the values you keep; adoption is not stopped by it."},
		{1, "NOPS-VAL-002", "a value is deprecated", "values", "", "A value is spelt in an old or mistaken way that is still honoured, such as autoUpater for autoUpdater.", "Write it the way the message says."},
		{1, "NOPS-VAL-003", "credentials were found in the release's values", "values", "", "Keys given to helm with --set stay readable in Helm's release Secrets. nopsctl moves them into one Secret and installs with references; those that nothing uses leave the values.", "Rotate the keys; revisions from before still hold them."},
		{1, "NOPS-VAL-004", "given credentials are not used", "values", "", "The values say that you keep the Secrets yourself (customerManagedSecrets, externalSecrets), so credentials given to this command, or handed out by the platform, are not stored.", "Remove customerManagedSecrets from the values, or set externalSecrets.enabled to false, to let nopsctl keep them."},
		{1, "NOPS-VAL-005", "keys of the metrics store stay in the release's values", "values", "", "With externalSecrets the chart reads the keys of Amazon Managed Prometheus from the store, if an entry of it is named, and otherwise from the values. A release that has them there keeps working; new ones are refused.", "Put AMP_ACCESS_KEY and AMP_SECRET_KEY into an entry of the store and name it in externalSecrets.data.ampKeys.remoteRef.key, or give vmagent a role. Then rotate the keys."},
		{1, verify.CheckID, "an image is signed by whom the policy names", "verify", "signature", "The image is resolved to a digest, what hangs on it in its registry is read, and each signature is checked against the rule of the policy that is about its name. Unsigned, untrusted, revoked and impossible to check are told apart; none of them passes.", "The message says which it is and what to do; nopsctl verify inspect IMAGE shows every signature. docs/verification.md lists the reasons."},
		{1, warnUnverified, "signatures are not checked", "install", "", "No policy says who must have signed the images, or --verify=off was given. Images are then installed by their tags, whoever made them.", "Name a policy with --policy FILE; nopsctl verify example-policy prints one to begin with."},
		{1, warnChart, "a chart is installed that is not verified", "install", "", "The chart that --chart names does not pass the policy, and --verify=warn was given. A chart says what runs, with which rights.", "Take a signed chart, or the one inside nopsctl, by leaving --chart out."},
		{1, warnPolicy, "the policy says something that it probably does not mean", "verify", "", "A rule can never match because an earlier one fits all that it fits, or an exception has ended. It is read as it stands.", "Mend the line that the message names."},
		{1, "NOPS-CLI-001", "this platform does not offer the contract", "install", "", "The host answers, but not to this project's protocol (a real nOps account, for example). Workspace and keys of the metrics store then come from flags or values, and the agents use the given API key.", "Take the values from the command that nOps shows for your cluster: --amp-id, --amp-region, --amp-access-key, --amp-secret-key-file, --cluster-id."},
		{1, warnLeftovers, "what karpenops made has nobody to tend it", "disable karpenops, uninstall", "", "karpenops goes, and NodePools that it made stay, or NodePools of yours that it changed in place. Karpenter goes on launching nodes for them, with limits and weights that nobody adjusts any more: when a commitment ends, on-demand nodes stay.", "nopsctl karpenops revert --all takes it back, also while karpenops is switched off; disable and uninstall do it first with --revert."},
		{1, warnSized, "pods keep requests that nobody adjusts any more", "disable containerRightsizing, uninstall", "", "containerRightsizing goes, and pods keep the requests that it gave them until they are replaced; new ones are as their templates say. Or pods could not be given back what their templates request while they run.", "nopsctl vpa revert --all gives them back what their templates request, in place, also while containerRightsizing is switched off; kubectl rollout restart replaces them."},
	}
}

func newExplainCommand(f *Factory) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "explain ID",
		Short:   "Explain the ID of a check or warning, offline",
		Example: "  nopsctl explain NOPS-NET-035",
		Args:    oneArg("an ID such as NOPS-NET-035"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var ids []string
			for _, e := range Explanations() {
				ids = append(ids, e.ID+"\t"+e.Title)
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			id := strings.ToUpper(strings.TrimSpace(args[0]))
			for _, e := range Explanations() {
				if e.ID != id {
					continue
				}
				if output == "json" {
					return writeJSON(f.IO.Out, e)
				}
				where := e.Where
				if e.Stage != "" {
					where += ", stage " + e.Stage
				}
				fmt.Fprintf(f.IO.Out, "%s  %s\n%s\n\n%s\n", e.ID, e.Title, where, wrap(e.About, 100, 0))
				if e.Hint != "" {
					fmt.Fprintf(f.IO.Out, "\nWhat to do: %s\n", wrap(e.Hint, 100, 0))
				}
				return nil
			}
			return usageHint("docs/checks.md lists the IDs", "unknown ID %q", args[0])
		},
	}
	outputFlag(cmd, &output, "text", "json")
	return cmd
}

package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/connectivity"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

type testOptions struct {
	f       *Factory
	cluster clusterFlags
	key     keyFlags
	show    faceFlags

	clusterARN string
	mirrors    []string
	wait       time.Duration
	output     string
}

func newTestConnectivityCommand(f *Factory, runF func(context.Context, *testOptions) error) *cobra.Command {
	o := &testOptions{f: f}
	cmd := &cobra.Command{
		Use:     "test-connectivity",
		Aliases: []string{"check"},
		Short:   "Prove that data flows: from here, from inside the cluster, as the platform sees it",
		Long: `Takes every connection apart into its stages (name, connection, encryption, answer, credentials, data) and says at which
of them it fails, why, and what to do. It looks from three sides:

  from here                  this machine to the nOps API and the image registry
  from inside the cluster    a Job with the heartbeat's image, identity and environment, removed again afterwards
  as the platform sees it    the nonce of this test, the last heartbeat, the last sample

Without an API key it uses the one the agents have, which can read but not start a test; then there is no nonce.
Exit code 3 when a check fails or stays unknown. nopsctl explain ID explains a check.`,
		Example: `  nopsctl test-connectivity --api-key-file key.txt
  nopsctl test-connectivity -o json | jq '.legs[].checks[] | select(.outcome == "failed")'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return testRun(cmd.Context(), o)
		},
	}
	o.key.bind(cmd)
	o.cluster.bind(cmd)
	o.show.bind(cmd)
	cmd.Flags().StringVar(&o.clusterARN, "cluster-arn", "", "ARN of the EKS cluster, where neither the installation nor the kubeconfig says it")
	cmd.Flags().StringArrayVar(&o.mirrors, "registry-mirror", nil, "the registry to ask from here: REGISTRY=MIRROR, as in install")
	cmd.Flags().DurationVar(&o.wait, "wait", 90*time.Second, "how long to wait for the first heartbeat and sample")
	outputFlag(cmd, &o.output, "text", "json", "jsonl")
	return cmd
}

// testAnswer is the JSON of test-connectivity -o json: the report, as far as the test came.
type testAnswer struct {
	connectivity.Report
	Error *answerError `json:"error,omitempty"`
}

func testRun(ctx context.Context, o *testOptions) error {
	if err := checkOutput(o.output, "text", "json", "jsonl"); err != nil {
		return err
	}
	now := o.f.Now().UTC()
	answer := testAnswer{Report: connectivity.Report{
		SchemaVersion: connectivity.ReportSchema, Outcome: event.Skipped, StartedAt: now, FinishedAt: now, Host: o.f.hostOf(o.key), ClusterARN: o.clusterARN,
		Namespace: o.cluster.kube.Namespace, Legs: []connectivity.LegReport{},
	}}
	op := o.f.operation("test-connectivity", o.cluster, o.output, o.f.face(o.output, o.show, true))
	return op.run(func() error { return o.test(ctx, op, &answer.Report) },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(err error) {
			if err == nil || len(answer.Legs) > 0 && CodeOf(err) != CodeCancelled {
				o.tell(answer.Report)
			}
		})
}

func (o *testOptions) test(ctx context.Context, op *operation, report *connectivity.Report) error {
	mirrors, err := parseMirrors(o.mirrors)
	if err != nil {
		return err
	}
	bundle, err := o.f.bundleOf(o.key)
	if err != nil {
		return err
	}
	s, err := o.f.open(o.cluster, op.Observe)
	if err != nil {
		return err
	}
	op.learn(reached(s.facts))
	client, err := s.cluster.Clientset()
	if err != nil {
		return err
	}
	options := connectivity.Options{
		Host: o.f.hostOf(o.key), CABundle: bundle, Proxy: o.f.Proxy, RegistryURL: registryURL(mirrors), Prober: o.f.Prober(client, o.cluster.kube.Namespace),
		Wait: o.wait, Observe: op.Observe, Now: o.f.Now, Sleep: o.f.Sleep, Resolve: o.f.Resolve,
		Target: event.Target{Context: s.facts.Context, Server: s.facts.Server, Namespace: o.cluster.kube.Namespace, Release: o.cluster.release},
	}
	key, err := o.f.readKey(ctx, o.key)
	if err != nil {
		return err
	}
	stored := s.learn(ctx, o.f)
	status, err := s.engine.Status(ctx)
	if err != nil {
		// The leg from here needs no cluster, and whoever asks wants to know what still works.
		options.Prober, options.NoProber = nil, "the cluster cannot be asked: "+err.Error()
		op.Observe(event.Warning{Message: "the cluster cannot be asked: " + err.Error(), Hint: hintOf(err)})
		status = &install.Status{}
	}
	options.ClusterARN = first(o.clusterARN, status.ClusterARN, s.facts.ClusterARN)
	options.NoClusterARN = "nobody says which cluster this is: give its ARN with --cluster-arn"
	options.Target.ClusterARN = options.ClusterARN
	if status.Release != nil {
		options.Target.FromVersion, options.Target.ToVersion = status.Release.ChartVersion, status.Release.ChartVersion
	}
	api, secret, why, err := o.f.reader(o.key, key, stored)
	if err != nil {
		return err
	}
	if api != nil {
		options.API, options.Header = api, http.Header{nopsapi.KeyHeader: {secret}}
	}
	options.NoAPI = why

	*report, err = connectivity.Run(ctx, options)
	switch {
	case err != nil:
		return err
	case report.Passed():
		return nil
	}
	return notProven(*report)
}

// tell is the verdict, which this command gives either way.
func (o *testOptions) tell(report connectivity.Report) {
	if o.show.quiet {
		return
	}
	style := o.f.styleOut()
	verdict := "data flows"
	switch untested := report.Untested(); {
	case !report.Passed():
		verdict = "data flow is not proven"
	case len(untested) > 0:
		verdict = "what was tested works; not tested: " + untested[0].Title()
	case withoutMetrics(report):
		verdict = "heartbeats flow; no metrics are collected (container insights is disabled)"
	}
	fmt.Fprintf(o.f.IO.Out, "%s %s: %s\n", style.Sign(report.Outcome), style.Bold(verdict), counts(report.Counts))
}

// reader is a client for looking: with the key given, else with the one the agents have. A nil client has a reason.
func (f *Factory) reader(flags keyFlags, key apiKey, stored map[string][]byte) (client *nopsclient.Client, secret, why string, err error) {
	const none = "no API key was given (--api-key-file, --api-key-stdin, " + EnvAPIKey + "), and that of the agents is not readable here"
	if secret = key.secret; secret == "" {
		if secret = string(stored[install.KeyAPI]); secret == "" {
			return nil, "", none, nil
		}
	}
	client, err = f.platform(flags, secret)
	return client, secret, none, err
}

// withoutMetrics says whether the cluster was looked at and has no metrics pipeline.
func withoutMetrics(r connectivity.Report) bool {
	outcome := map[connectivity.ID]event.Outcome{}
	for _, c := range r.Checks() {
		outcome[connectivity.ID(c.ID)] = c.Outcome
	}
	return outcome[connectivity.ClusterPod] == event.OK && outcome[connectivity.AMPData] == event.Skipped
}

// notProven is the error of a test that did not pass.
func notProven(r connectivity.Report) error {
	c, ok := r.Failed()
	if !ok {
		return &failure{class: "preflight", reason: "nothing could be tested"}
	}
	what := "failed"
	if c.Outcome == event.Unknown {
		what = "is not known"
	}
	message := ""
	if c.Message != "" {
		message = ": " + c.Message
	}
	return &failure{class: "preflight", reason: fmt.Sprintf("%s %s, stage %s: %q %s%s", c.ID, connectivity.Leg(c.Leg).Title(), c.Stage, c.Title, what, message), advice: c.Hint}
}

func counts(c connectivity.Counts) string {
	parts := []string{fmt.Sprintf("%d passed", c.OK)}
	for _, p := range []struct {
		n    int
		what string
	}{{c.Failed, "failed"}, {c.Unknown, "unknown"}, {c.Warning, "with a warning"}, {c.Skipped, "skipped"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}

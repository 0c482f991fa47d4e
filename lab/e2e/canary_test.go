package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// A place is somewhere a credential must not be.
type place struct{ name, text string }

// scanCanary looks for every credential of this lab wherever one must not be. Negated, it wants to find one: that is how
// a story shows that a planted leak is caught.
func (w *world) scanCanary(ts *testscript.TestScript, neg bool, _ []string) {
	canaries, err := w.credentials()
	ts.Check(err)
	places, err := w.places()
	ts.Check(err)
	if len(canaries) < 4 {
		ts.Fatalf("only %d credentials to look for, expected the person's key and the three of the Secret", len(canaries))
	}
	if len(places) < 6 {
		ts.Fatalf("only %d places searched", len(places))
	}
	var leaks []string
	for _, p := range places {
		for name, secret := range canaries {
			for form, needle := range forms(secret) {
				if strings.Contains(p.text, needle) {
					leaks = append(leaks, fmt.Sprintf("%s (%s) is in %s", name, form, p.name))
				}
			}
		}
		fmt.Fprintf(ts.Stdout(), "searched %s: %d bytes\n", p.name, len(p.text))
	}
	switch {
	case len(leaks) > 0 && !neg:
		ts.Fatalf("credentials leaked:\n  %s", strings.Join(leaks, "\n  "))
	case len(leaks) == 0 && neg:
		ts.Fatalf("the planted leak was not found in %d places", len(places))
	}
	fmt.Fprintln(ts.Stdout(), strings.Join(leaks, "\n"))
}

func forms(secret string) map[string]string {
	return map[string]string{"plain": secret, "base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "=")}
}

// credentials are the person's key and all that nopsctl put into its Secret.
func (w *world) credentials() (map[string]string, error) {
	found := map[string]string{"the API key of the person": w.status.APIKey}
	out, err := w.inside("kubectl", "-n", "nops", "get", "secret", "nops-agent-credentials", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("reading the credentials Secret: %w", err)
	}
	var secret struct{ Data map[string][]byte }
	if err := json.Unmarshal(out, &secret); err != nil {
		return nil, err
	}
	for key, value := range secret.Data {
		found[key] = string(value)
	}
	return found, nil
}

func (w *world) places() ([]place, error) {
	var all []place
	for name, script := range map[string]string{
		"logs of the stack's containers": `for p in $(kubectl -n nops get pods -o name); do kubectl -n nops logs --all-containers --prefix "$p"; done`,
		"events":                         `kubectl get events -A -o yaml`,
		"objects of the namespace":       `kubectl -n nops get all,configmaps,serviceaccounts,roles,rolebindings,leases,jobs,endpointslices -o yaml`,
		"cluster-wide objects":           `kubectl get clusterroles,clusterrolebindings,nodes,namespaces -o yaml`,
		"Helm values":                    `helm get values -a nops-kubernetes-agent -n nops -o yaml`,
		"Helm manifest, notes and hooks": `helm get all nops-kubernetes-agent -n nops`,
		"process arguments":              `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' <"$f" 2>/dev/null; echo; done; true`,
	} {
		out, err := w.inside("bash", "-c", script).CombinedOutput()
		if err != nil && name != "logs of the stack's containers" {
			return nil, fmt.Errorf("collecting %s: %w: %s", name, err, out)
		}
		all = append(all, place{name, string(out)})
	}
	revisions, err := w.revisions()
	return append(all, revisions...), err
}

// revisions are the release Secrets of Helm, unpacked: base64 of base64 of gzip of JSON.
func (w *world) revisions() ([]place, error) {
	out, err := w.inside("kubectl", "-n", "nops", "get", "secrets", "-l", "owner=helm", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("reading release Secrets: %w", err)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string][]byte
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("no release Secret found: nothing was installed, so nothing was searched")
	}
	var found []place
	for _, item := range list.Items {
		packed, err := base64.StdEncoding.DecodeString(string(item.Data["release"]))
		if err != nil {
			return nil, fmt.Errorf("release Secret %s: %w", item.Metadata.Name, err)
		}
		unzip, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, fmt.Errorf("release Secret %s: %w", item.Metadata.Name, err)
		}
		text, err := io.ReadAll(unzip)
		if err != nil {
			return nil, fmt.Errorf("release Secret %s: %w", item.Metadata.Name, err)
		}
		found = append(found, place{"release Secret " + item.Metadata.Name, string(text)})
	}
	return found, nil
}

package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"sort"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// A place is somewhere a credential must not be.
type place struct {
	name string
	must string // stands in the text of a place that was really collected
	text string
}

// scanCanary looks for every credential of this lab wherever one must not be. Negated, it wants to find one in each place
// that is named: that is how a story shows that a leak planted there is caught.
func (w *world) scanCanary(ts *testscript.TestScript, neg bool, args []string) {
	if neg != (len(args) > 0) {
		ts.Fatalf("usage: scan-canary, or ! scan-canary PLACE…")
	}
	canaries, err := w.credentials()
	ts.Check(err)
	places, err := w.places(ts.Getenv("XDG_CACHE_HOME"))
	ts.Check(err)
	if len(canaries) < 5 {
		ts.Fatalf("only %d credentials to look for, expected the person's two and the three of the Secret", len(canaries))
	}
	leaks, err := search(places, canaries)
	ts.Check(err)
	for _, p := range places {
		fmt.Fprintf(ts.Stdout(), "searched %s: %d bytes\n", p.name, len(p.text))
	}
	var told []string
	found := map[string]bool{}
	for _, l := range leaks {
		told, found[l.place] = append(told, l.String()), true
	}
	fmt.Fprintln(ts.Stdout(), strings.Join(told, "\n"))
	if !neg && len(leaks) > 0 {
		ts.Fatalf("credentials leaked:\n  %s", strings.Join(told, "\n  "))
	}
	for _, name := range args {
		if !found[name] {
			ts.Fatalf("the leak planted in %s was not found there, of %d places:\n  %s", name, len(places), strings.Join(told, "\n  "))
		}
	}
}

// A leak is a credential in a place.
type leak struct{ place, credential, form string }

func (l leak) String() string { return fmt.Sprintf("%s (%s) is in %s", l.credential, l.form, l.place) }

// search looks for each credential in each of its forms. A place that is empty, or lacks what it must hold, was not
// collected, and its silence shows nothing.
func search(places []place, canaries map[string]string) ([]leak, error) {
	if len(places) < 9 {
		return nil, fmt.Errorf("only %d places to search", len(places))
	}
	var leaks []leak
	for _, p := range places {
		if p.text == "" || !strings.Contains(p.text, p.must) {
			return nil, fmt.Errorf("%s: %d bytes without %q: it was not collected", p.name, len(p.text), p.must)
		}
		for name, secret := range canaries {
			if len(secret) < 8 {
				return nil, fmt.Errorf("%s is too short to look for", name)
			}
			for form, needle := range forms(secret) {
				if strings.Contains(p.text, needle) {
					leaks = append(leaks, leak{p.name, name, form})
				}
			}
		}
	}
	sort.Slice(leaks, func(i, j int) bool { return leaks[i].String() < leaks[j].String() })
	return leaks, nil
}

// forms are what a credential may look like: as it is, in a URL, and in base64, alone or anywhere within what was encoded.
func forms(secret string) map[string]string {
	all := map[string]string{"plain": secret}
	add := func(form, needle, like string) {
		if needle != like {
			all[form] = needle
		}
	}
	add("in a URL", url.QueryEscape(secret), secret)
	for before := range 3 {
		text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + secret))
		first := (before*8 + 5) / 6 // of its characters the credential alone decides, once those before it are left out
		last := (before + len(secret)) * 8 / 6
		text = text[first:last]
		add(fmt.Sprintf("base64, %d bytes after a boundary", before), text, "")
		add(fmt.Sprintf("base64 for URLs, %d bytes after a boundary", before), strings.NewReplacer("+", "-", "/", "_").Replace(text), text)
	}
	return all
}

// credentials are what the person holds, and all that nopsctl put into its Secret.
func (w *world) credentials() (map[string]string, error) {
	found := map[string]string{"the API key of the person": w.status.APIKey, "the AWS secret of the person": w.status.AWSSecret}
	out, err := w.collect("kubectl", "-n", "nops", "get", "secret", "nops-agent-credentials", "-o", "json")
	if err != nil {
		return nil, fmt.Errorf("reading the credentials Secret: %w", err)
	}
	var secret struct{ Data map[string][]byte }
	if err := json.Unmarshal([]byte(out), &secret); err != nil {
		return nil, err
	}
	for key, value := range secret.Data {
		found[key] = string(value)
	}
	return found, nil
}

// collect runs a command in the lab. What it says of an error is in the error.
func (w *world) collect(args ...string) (string, error) {
	out, err := w.inside(args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

// places are collected from the lab, and from the cache that nopsctl was given.
func (w *world) places(cache string) ([]place, error) {
	// What a loop or a list is made of is assigned first: the shell notices a failure there, and not within a word.
	const (
		kinds = `kinds=$(kubectl api-resources --verbs=list --namespaced=%s -o name); kinds=$(grep -v -x -e secrets -e events -e events.events.k8s.io -e componentstatuses <<<"$kinds"); kubectl get "$(paste -sd, <<<"$kinds")" -A -o yaml`
		helm  = `releases=$(helm list -A --no-headers); while read -r name namespace _; do %s; done <<<"$releases"`
	)
	var all []place
	for _, p := range []struct{ name, must, script string }{
		{"container logs", "heartbeat", `pods=$(kubectl -n nops get pods -o name); for p in $pods; do kubectl -n nops logs --all-containers --prefix "$p"; done`},
		{"log files of the node", "/var/log/pods/nops_", `find /var/log/pods -path '/var/log/pods/nops_*' -name '*.log*' -print -exec cat {} +`},
		{"events", "kind: Event", `kubectl get events -A -o yaml`},
		{"objects of all namespaces", "kind: Deployment", fmt.Sprintf(kinds, "true")},
		{"cluster-wide objects", "kind: ClusterRole", fmt.Sprintf(kinds, "false")},
		{"other Secrets", "kind: Secret", `kubectl get secrets -A --field-selector metadata.name!=nops-agent-credentials -o yaml`},
		{"Helm values", "containerInsights", fmt.Sprintf(helm, `helm get values -a "$name" -n "$namespace" -o yaml`)},
		{"Helm manifests, notes and hooks", "kind: Deployment", fmt.Sprintf(helm, `helm get manifest "$name" -n "$namespace"; helm get notes "$name" -n "$namespace"; helm get hooks "$name" -n "$namespace"`)},
		{"what nopsctl remembers", `"outcome":"verified"`, `cat "$0"/nopsctl/verified/*.json`},
		{"process arguments", "kube-apiserver", `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' 2>/dev/null <"$f" || [ ! -e "$f" ]; echo; done`}, // a process may end meanwhile
	} {
		text, err := w.collect("bash", "-c", "set -euo pipefail; "+p.script, cache)
		if err != nil {
			return nil, fmt.Errorf("collecting %s: %w", p.name, err)
		}
		all = append(all, place{p.name, p.must, text})
	}
	revisions, err := w.revisions()
	return append(all, revisions...), err
}

// revisions are the release Secrets of Helm, unpacked: base64 of base64 of gzip of JSON.
func (w *world) revisions() ([]place, error) {
	out, err := w.collect("kubectl", "get", "secrets", "-A", "-l", "owner=helm", "-o", "json")
	if err != nil {
		return nil, fmt.Errorf("reading release Secrets: %w", err)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string][]byte
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no release Secret found: nothing was installed, so nothing was searched")
	}
	var found []place
	for _, item := range list.Items {
		text, err := unpack(item.Data["release"])
		if err != nil {
			return nil, fmt.Errorf("release Secret %s: %w", item.Metadata.Name, err)
		}
		found = append(found, place{"release Secret " + item.Metadata.Name, `"info"`, text})
	}
	return found, nil
}

func unpack(data []byte) (string, error) {
	packed, err := base64.StdEncoding.DecodeString(string(data))
	if err != nil {
		return "", err
	}
	unzip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(unzip)
	return string(text), err
}

// TestSearch: the search that the story relies on finds every form in every place, and takes no silence for an answer.
func TestSearch(t *testing.T) {
	const secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYcanary"
	canaries := map[string]string{"AMP_SECRET_KEY": secret}
	clean := func() []place {
		var all []place
		for i := range 9 {
			all = append(all, place{fmt.Sprintf("place %d", i), "kind:", "kind: ConfigMap, and what else there is"})
		}
		return all
	}
	planted := 0
	for at := range clean() {
		for form, text := range map[string]string{
			"plain": "x" + secret + "y", "URL": "https://x/?k=" + url.QueryEscape(secret), "base64": base64.StdEncoding.EncodeToString([]byte(secret)),
			"base64 of JSON": base64.StdEncoding.EncodeToString([]byte(`{"k":"` + secret + `"}`)), "base64 of more JSON": base64.StdEncoding.EncodeToString([]byte(`{"ke":"` + secret + `"}`)),
			"base64 of a line": base64.StdEncoding.EncodeToString([]byte(`{"key":"` + secret + "\"}\n")), "base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte("AKIA:" + secret)),
		} {
			places := clean()
			places[at].text += " " + text
			leaks, err := search(places, canaries)
			if err != nil || len(leaks) == 0 {
				t.Errorf("%s in place %d: %v, %v", form, at, leaks, err)
			}
			for _, l := range leaks {
				if l.place != places[at].name || l.credential != "AMP_SECRET_KEY" {
					t.Errorf("%s in place %d: found as %s", form, at, l)
				}
			}
			planted++
		}
	}
	if planted != 63 {
		t.Errorf("%d plants, want 63", planted)
	}
	if leaks, err := search(clean(), canaries); err != nil || len(leaks) != 0 {
		t.Errorf("nothing is planted: %v, %v", leaks, err)
	}
	for _, tt := range []struct {
		name, reason string
		arrange      func([]place) []place
		canaries     map[string]string
	}{
		{"an empty place", "0 bytes are no place", func(p []place) []place { p[3].text = ""; return p }, canaries},
		{"an error's text", "what must be there is not", func(p []place) []place { p[3].text = "error: forbidden"; return p }, canaries},
		{"a place too few", "it was left out", func(p []place) []place { return p[1:] }, canaries},
		{"an empty credential", "it would be found everywhere, or nowhere", func(p []place) []place { return p }, map[string]string{"API_KEY": ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if leaks, err := search(tt.arrange(clean()), tt.canaries); err == nil {
				t.Errorf("%v: %s", leaks, tt.reason)
			}
		})
	}
}

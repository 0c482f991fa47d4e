package embeddedchart_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chartutil"
)

// TestExternalSecrets: the operator serves one version of its API or the other, and is asked for what is used and no more.
func TestExternalSecrets(t *testing.T) {
	store := []string{"nops.apiKey=", "externalSecrets.enabled=true", "externalSecrets.secretStoreRef.name=store", "externalSecrets.data.apiKeys.remoteRef.key=api"}
	ref := func(key string) object { return object{"key": key[:3], "property": key[4:]} }
	for _, tt := range []struct {
		name, reason string
		set          []string
		serves       string
		version      string
		want         []string // entry/property
	}{
		{"as published", "the AMP keys are inline", nil, "", "external-secrets.io/v1beta1", []string{"api/NOPS_API_KEY"}},
		{"a newer operator", "v1beta1 is no longer served from 0.17 on", nil, "external-secrets.io/v1/ClusterExternalSecret", "external-secrets.io/v1", []string{"api/NOPS_API_KEY"}},
		{"Datadog", "its key is in the same entry", []string{"datadog.enabled=true"}, "", "external-secrets.io/v1beta1", []string{"api/NOPS_API_KEY", "api/DD_API_KEY"}},
		{"the AMP keys too", "", []string{"externalSecrets.data.ampKeys.remoteRef.key=amp"}, "", "external-secrets.io/v1beta1", []string{"api/NOPS_API_KEY", "amp/AMP_ACCESS_KEY", "amp/AMP_SECRET_KEY"}},
		{"a role", "keys that are not used are not fetched", []string{"externalSecrets.data.ampKeys.remoteRef.key=amp", "containerInsights.podIdentity.enabled=true"}, "", "external-secrets.io/v1beta1", []string{"api/NOPS_API_KEY"}},
		{"no container insights", "", []string{"externalSecrets.data.ampKeys.remoteRef.key=amp", "containerInsights.enabled=false"}, "", "external-secrets.io/v1beta1", []string{"api/NOPS_API_KEY"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			caps := eks()
			if tt.serves != "" {
				caps.APIVersions = append(chartutil.VersionSet{tt.serves}, caps.APIVersions...)
			}
			manifests, _, err := renderWith(t, load(t), base(append(store, tt.set...)...), caps)
			if err != nil {
				t.Fatal(err)
			}
			o := find(t, manifests, "ClusterExternalSecret/nops-api-keys")
			if got := text(o, "apiVersion"); got != tt.version {
				t.Errorf("%s, want %s (%s)", got, tt.version, tt.reason)
			}
			var want []any
			for _, key := range tt.want {
				want = append(want, object{"secretKey": key[4:], "remoteRef": ref(key)})
			}
			if diff := cmp.Diff(want, list(o, "spec", "externalSecretSpec", "data")); diff != "" {
				t.Errorf("%s:\n%s", tt.reason, diff)
			}
			if got := text(o, "spec", "externalSecretSpec", "secretStoreRef"); got != "map[kind:ClusterSecretStore name:store]" {
				t.Errorf("store %s", got)
			}
			if got := list(o, "spec", "namespaceSelectors"); len(got) != 1 || text(got[0], "matchLabels") != "map[kubernetes.io/metadata.name:nops]" {
				t.Errorf("it reaches %v", got)
			}
		})
	}
}

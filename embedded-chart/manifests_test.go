package embeddedchart_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/strvals"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
)

// types decodes every object as what it says it is: a misplaced field or a number for a string is refused here and not
// by somebody's API server.
func types(t *testing.T, manifests []object) {
	t.Helper()
	for _, o := range manifests {
		typed, ok := map[string]any{
			"v1/Secret": &corev1.Secret{}, "v1/ConfigMap": &corev1.ConfigMap{}, "v1/Service": &corev1.Service{}, "v1/ServiceAccount": &corev1.ServiceAccount{},
			"apps/v1/Deployment": &appsv1.Deployment{}, "apps/v1/DaemonSet": &appsv1.DaemonSet{},
			"rbac.authorization.k8s.io/v1/Role": &rbacv1.Role{}, "rbac.authorization.k8s.io/v1/RoleBinding": &rbacv1.RoleBinding{},
			"rbac.authorization.k8s.io/v1/ClusterRole": &rbacv1.ClusterRole{}, "rbac.authorization.k8s.io/v1/ClusterRoleBinding": &rbacv1.ClusterRoleBinding{},
			"batch/v1/CronJob": &batchv1.CronJob{}, "policy/v1/PodDisruptionBudget": &policyv1.PodDisruptionBudget{}, "networking.k8s.io/v1/NetworkPolicy": &networkingv1.NetworkPolicy{},
			"v1/PersistentVolumeClaim": &corev1.PersistentVolumeClaim{}, "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration": &admissionv1.MutatingWebhookConfiguration{},
			"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy": &admissionv1.ValidatingAdmissionPolicy{}, "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding": &admissionv1.ValidatingAdmissionPolicyBinding{},
			"apiextensions.k8s.io/v1/CustomResourceDefinition":  &apiextensionsv1.CustomResourceDefinition{},
			"external-secrets.io/v1beta1/ClusterExternalSecret": &object{}, // of somebody else: external_secrets_test.go
		}[text(o, "apiVersion")+"/"+text(o, "kind")]
		if !ok {
			t.Errorf("%s: this test knows no such kind", name(o))
			continue
		}
		data, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(data, typed); err != nil {
			t.Errorf("%s: %v", name(o), err)
		}
	}
}

// hangTogether: what is referred to is there, in the release's namespace, and reaches no further than it must.
func hangTogether(t *testing.T, values object, manifests []object) {
	t.Helper()
	there := map[string]object{}
	for _, o := range manifests {
		if there[name(o)] != nil {
			t.Errorf("%s: twice", name(o))
		}
		there[name(o)] = o
		clusterWide := strings.HasPrefix(text(o, "kind"), "Cluster") || slices.Contains([]string{"CustomResourceDefinition", "MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}, text(o, "kind"))
		if ns := text(o, "metadata", "namespace"); (ns == "nops") == clusterWide {
			t.Errorf("%s: namespace %s", name(o), ns)
		}
	}
	for _, o := range manifests {
		if ref := text(o, "roleRef", "name"); ref != "<nil>" {
			if there[text(o, "roleRef", "kind")+"/"+ref] == nil {
				t.Errorf("%s: role %s is not there", name(o), ref)
			}
			for _, s := range list(o, "subjects") {
				if there["ServiceAccount/"+text(s, "name")] == nil || text(s, "namespace") != "nops" {
					t.Errorf("%s: subject %v is not there", name(o), s)
				}
			}
		}
		for _, w := range list(o, "webhooks") {
			if there["Service/"+text(w, "clientConfig", "service", "name")] == nil || text(w, "clientConfig", "service", "namespace") != "nops" {
				t.Errorf("%s: calls %v, which is not there", name(o), get(w, "clientConfig"))
			}
		}
		selector, selects := map[string]any{}, true
		switch text(o, "kind") {
		case "Service":
			selector, _ = get(o, "spec", "selector").(object)
		case "PodDisruptionBudget":
			selector, _ = get(o, "spec", "selector", "matchLabels").(object)
		case "NetworkPolicy":
			selector, _ = get(o, "spec", "podSelector", "matchLabels").(object)
		default:
			selects = false
		}
		if selects && !slices.ContainsFunc(manifests, func(w object) bool {
			labels, _ := get(template(w), "metadata", "labels").(object)
			return workload(w) && len(selector) == 1 && subset(selector, labels)
		}) {
			t.Errorf("%s: selects nothing: %v", name(o), selector)
		}
		if workload(o) {
			podRefs(t, values, there, o)
		}
	}
}

func subset(a, b object) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

func podRefs(t *testing.T, values object, there map[string]object, o object) {
	t.Helper()
	pod, _ := template(o)["spec"].(object)
	account := there["ServiceAccount/"+text(pod, "serviceAccountName")]
	if account == nil || text(account, "automountServiceAccountToken") != "false" {
		t.Errorf("%s: service account %s", name(o), text(pod, "serviceAccountName"))
	}
	if host := text(pod, "hostNetwork") == "true" || text(pod, "hostPID") == "true"; host != slices.Contains(onHost, name(o)) {
		t.Errorf("%s: on the host: %v", name(o), host)
	}
	if token := text(pod, "automountServiceAccountToken") == "true"; token == slices.Contains(noToken, name(o)) {
		t.Errorf("%s: has a token: %v", name(o), token)
	}
	every := slices.Contains(everyNode, name(o))
	if linux := text(pod, "nodeSelector", "kubernetes.io/os") == "linux"; linux == every {
		t.Errorf("%s: nodeSelector %v", name(o), pod["nodeSelector"])
	}
	if affinity := fmt.Sprint(pod["affinity"]); every && (!strings.Contains(affinity, "fargate") || !strings.Contains(affinity, "linux")) {
		t.Errorf("%s: affinity %s", name(o), affinity)
	}
	ofStore := text(values, "containerRightsizing", "recommender", "store", "secretName")
	volumes := map[string]bool{}
	for _, v := range list(pod, "volumes") {
		volumes[text(v, "name")] = true
		if config := text(v, "configMap", "name"); config != "<nil>" && there["ConfigMap/"+config] == nil {
			t.Errorf("%s: ConfigMap %s is not there", name(o), config)
		}
		if get(v, "hostPath") != nil && !slices.Contains(hostPaths, name(o)) {
			t.Errorf("%s: volume %v", name(o), v)
		}
		if get(v, "emptyDir") != nil && get(v, "emptyDir", "sizeLimit") == nil {
			t.Errorf("%s: volume %v may fill the node", name(o), v)
		}
		if secret := text(v, "secret", "secretName"); secret != "<nil>" && secret != ofStore {
			t.Errorf("%s: Secret %s is mounted", name(o), secret)
		}
	}
	elsewhere := get(values, "customerManagedSecrets", "enabled") == true || get(values, "externalSecrets", "enabled") == true
	for _, c := range list(pod, "containers") {
		for _, m := range list(c, "volumeMounts") {
			if !volumes[text(m, "name")] || (slices.Contains(hostPaths, name(o)) && text(m, "readOnly") != "true") {
				t.Errorf("%s: mount %v", name(o), m)
			}
		}
		for _, e := range list(c, "env") {
			secret := text(e, "valueFrom", "secretKeyRef", "name")
			if secret == "<nil>" {
				continue
			}
			own := there["Secret/"+secret]
			if own == nil != (elsewhere && secret != "nops-inline-credentials" || secret == ofStore) {
				t.Errorf("%s: %s comes from Secret %s, provided by the user: %v", name(o), text(e, "name"), secret, elsewhere)
			} else if own != nil && get(own, "data", text(e, "valueFrom", "secretKeyRef", "key")) == nil {
				t.Errorf("%s: %s: key %s is not in it", name(o), text(e, "name"), text(e, "valueFrom", "secretKeyRef", "key"))
			}
		}
	}
}

func find(t *testing.T, manifests []object, want string) object {
	t.Helper()
	for _, o := range manifests {
		if name(o) == want {
			return o
		}
	}
	t.Fatalf("no %s", want)
	return nil
}

// TestPermissions: who may what, in full. Growth of this table is a decision.
func TestPermissions(t *testing.T) {
	manifests, _, err := render(t, base())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, o := range manifests {
		if strings.Contains(name(o), "/nops-vpa-") {
			continue // four parts with some 60 rules: held to the tables of its package by lab/contract
		}
		for _, r := range list(o, "rules") {
			s := fmt.Sprint(list(r, "apiGroups"), list(r, "resources"), list(r, "verbs"))
			if names := list(r, "resourceNames"); names != nil {
				s += fmt.Sprint(" ", names)
			}
			got[name(o)] = append(got[name(o)], s)
		}
	}
	want := map[string][]string{
		"Role/nops-heartbeat": {
			"[] [pods] [list watch]", "[apps] [deployments daemonsets statefulsets] [list watch]", "[batch] [cronjobs jobs] [list watch]",
			"[] [configmaps] [create]", "[] [configmaps] [get update] [nops-heartbeat-state]", "[] [events] [create]",
		},
		"ClusterRole/nops-kube-state-metrics": {
			"[] [namespaces nodes persistentvolumeclaims persistentvolumes pods] [list watch]", "[apps] [daemonsets deployments replicasets statefulsets] [list watch]",
			"[autoscaling] [horizontalpodautoscalers] [list watch]", "[batch] [cronjobs jobs] [list watch]", "[policy] [poddisruptionbudgets] [list watch]",
		},
		"ClusterRole/nops-container-insights": {"[] [nodes] [get list watch]", "[] [nodes/metrics] [get]"},
		"Role/nops-container-insights":        {"[] [pods] [get list watch]"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestImageReferences(t *testing.T) {
	images, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	const digest = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
	listed := images["kube-state-metrics"]
	for _, tt := range []struct {
		name, reason string
		set          []string
		want         string
	}{
		{"as listed", "", nil, listed.Repository + ":" + listed.Tag},
		{"a tag", "who names a version gets it", []string{"prometheus.kubeStateMetrics.image.tag=v2.19.1"}, listed.Repository + ":v2.19.1"},
		{"a digest", "bytes are more exact than a name", []string{"prometheus.kubeStateMetrics.image.digest=" + digest}, listed.Repository + "@" + digest},
		{"a mirror", "the registry is replaced, not the path", []string{"nops.global.imageRegistry=mirror.example.com:5000/ecr/"}, "mirror.example.com:5000/ecr/nops/kube-state-metrics:" + listed.Tag},
		{"a mirror of a path alone", "nops is a part of the path and no registry", []string{"nops.global.imageRegistry=mirror.example.com", "prometheus.kubeStateMetrics.image.registry="}, "mirror.example.com/nops/kube-state-metrics:" + listed.Tag},
		{"a mirror of a local registry", "", []string{"nops.global.imageRegistry=mirror.example.com", "prometheus.kubeStateMetrics.image.registry=localhost:5000"}, "mirror.example.com/nops/kube-state-metrics:" + listed.Tag},
		{"a registry", "", []string{"prometheus.kubeStateMetrics.image.registry=registry.example.com"}, "registry.example.com/nops/kube-state-metrics:" + listed.Tag},
	} {
		t.Run(tt.name, func(t *testing.T) {
			manifests, _, err := render(t, base(tt.set...))
			if err != nil {
				t.Fatal(err)
			}
			c := list(find(t, manifests, "Deployment/nops-kube-state-metrics"), "spec", "template", "spec", "containers")[0]
			if got := text(c, "image"); got != tt.want {
				t.Errorf("%s, want %s (%s)", got, tt.want, tt.reason)
			}
		})
	}
}

// TestListedDigestGivesWay: with digests pinned by a release, a user's tag still wins; the user's own digest stays.
func TestListedDigestGivesWay(t *testing.T) {
	const listed, own = "sha256:3333333333333333333333333333333333333333333333333333333333333333", "sha256:4444444444444444444444444444444444444444444444444444444444444444"
	for _, tt := range []struct{ name, tag, digest, want string }{
		{"pinned", "", listed, "@" + listed},
		{"another tag", "v2.0.0", listed, ":v2.0.0"},
		{"another tag and digest", "v2.0.0", own, "@" + own},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := load(t)
			for _, f := range c.Templates {
				if f.Name == "templates/validate.yaml" {
					f.Data = nil
				}
			}
			for _, f := range c.Files {
				if f.Name == "files/images.yaml" {
					f.Data = []byte(strings.ReplaceAll(string(f.Data), `digest: ""`, "digest: "+listed))
				}
			}
			set := []string{"prometheus.kubeStateMetrics.image.digest=" + tt.digest}
			if tt.tag != "" {
				set = append(set, "prometheus.kubeStateMetrics.image.tag="+tt.tag)
			}
			manifests, _, err := renderChart(t, c, base(set...))
			if err != nil {
				t.Fatal(err)
			}
			got := text(list(find(t, manifests, "Deployment/nops-kube-state-metrics"), "spec", "template", "spec", "containers")[0], "image")
			if !strings.HasSuffix(got, tt.want) {
				t.Errorf("%s, want …%s", got, tt.want)
			}
		})
	}
}

// TestSettingsStayWhereTheyBelong: merging one component's settings over the global ones must not change the global ones.
func TestSettingsStayWhereTheyBelong(t *testing.T) {
	components := map[string]string{"Deployment/nops-heartbeat": "heartbeat", "Deployment/nops-kube-state-metrics": "prometheus.kubeStateMetrics", "Deployment/nops-vmagent": "victoriaMetrics"}
	set := []string{"nops.global.nodeSelector.all=yes", "nops.global.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1", "nops.global.annotations.all=yes", "nops.global.labels.all=yes"}
	for _, c := range slices.Sorted(maps.Values(components)) {
		own := strings.ReplaceAll(c, ".", "-")
		set = append(set, c+".nodeSelector.own-"+own+"=yes", c+".affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.own-"+own+"=yes", c+".podAnnotations.own-"+own+"=yes", c+".labels.own-"+own+"=yes", c+".tolerations[0].key=own-"+own)
	}
	manifests, _, err := render(t, base(set...))
	if err != nil {
		t.Fatal(err)
	}
	for object, component := range components {
		data, err := yaml.Marshal(find(t, manifests, object))
		if err != nil {
			t.Fatal(err)
		}
		for other := range maps.Values(components) {
			// Labels are on the object and on its pods; the others once.
			want := 0
			if other == component {
				want = 6
			}
			if n := strings.Count(string(data), "own-"+strings.ReplaceAll(other, ".", "-")); n != want {
				t.Errorf("%s holds %d settings of %s, want %d\n%s", object, n, other, want, data)
			}
		}
	}
}

func TestNotes(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  []string
		want []string
		not  []string
	}{
		{"all", []string{"karpenops.enabled=true", "karpenops.clusterId=x"}, []string{"Runs: heartbeat, vmagent, node-exporter, kube-state-metrics, dcgm-exporter, karpenops, vpa\n", "Not yet part of this release, whatever their values say: container-insights-agent, data-fetcher, image-tag-updater\n", "nopsctl status -n nops", "nopsctl test-connectivity -n nops", "stay readable in Helm's release Secrets"}, []string{"Off:", "WARNING", "global.*"}},
		{"as it comes", nil, []string{"Off:  karpenops (karpenops.enabled=false): NodePools are not changed"}, []string{"WARNING"}},
		{"no heartbeat", []string{"heartbeat.enabled=false"}, []string{"Runs: vmagent", "Off:  heartbeat"}, nil},
		{"nothing", []string{"heartbeat.enabled=false", "containerInsights.enabled=false", "containerRightsizing.enabled=false"}, []string{"Runs: nothing\n", "Off:  heartbeat", "Off:  container insights", "Off:  containerRightsizing (containerRightsizing.enabled=false): requests are not changed"}, nil},
		{"references and keys", []string{"customerManagedSecrets.enabled=true", "customerManagedSecrets.apiSecretName=s", "customerManagedSecrets.apiSecretKey=k", "customerManagedSecrets.ampAccessName=s", "customerManagedSecrets.ampAccessKey=k", "customerManagedSecrets.ampSecretName=s", "customerManagedSecrets.ampSecretKey=k"}, []string{"The references win"}, []string{"stay readable"}},
		{"role and keys", []string{`victoriaMetrics.serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::1:role/x`}, []string{"The role is used"}, nil},
		{"unverified kubelets", []string{"victoriaMetrics.kubeletInsecureSkipVerify=true"}, []string{"kubeletInsecureSkipVerify=true"}, nil},
		{"an unverified store", []string{"containerRightsizing.recommender.store.url=https://x", "containerRightsizing.recommender.store.insecureSkipVerify=true"}, []string{"recommender.store.insecureSkipVerify=true"}, nil},
		{"no store to verify", []string{"containerRightsizing.recommender.store.insecureSkipVerify=true"}, nil, []string{"insecureSkipVerify"}},
		{"a bucket", []string{"containerInsights.env_variables.APP_AWS_S3_BUCKET=b", "containerInsights.debug=true"}, []string{"APP_AWS_S3_BUCKET is unused", "containerInsights.debug is unused"}, nil},
		{"a credential among variables", []string{"containerInsights.env_variables.AWS_SECRET_ACCESS_KEY=x"}, []string{"AWS_SECRET_ACCESS_KEY looks like a credential"}, nil},
		{"Helm's own", []string{"global.nodeSelector.a=b"}, []string{"global.* is Helm's own"}, nil},
		{"the misspelling", []string{"autoUpater.enabled=false"}, []string{"misspelling of autoUpdater"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, notes, err := render(t, base(tt.set...))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(notes, want) {
					t.Errorf("no %q in:\n%s", want, notes)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(notes, not) {
					t.Errorf("%q in:\n%s", not, notes)
				}
			}
			if strings.Contains(notes, "canary") {
				t.Errorf("a credential in:\n%s", notes)
			}
		})
	}
}

// TestStoreCredentials: who asks the store comes from the Secret that is named, as variables or as a file, to the recommender alone; and nothing
// changes where none is named.
func TestStoreCredentials(t *testing.T) {
	const at = "containerRightsizing.recommender.store."
	from := func(key string) string { return fmt.Sprintf("map[secretKeyRef:map[key:%s name:reader]]", key) }
	for _, tt := range []struct {
		name  string
		set   []string
		env   map[string]string // the value, or where it comes from
		token string            // the key that is mounted as the file
	}{
		{"none", nil, map[string]string{}, ""},
		{"user and password", []string{"secretName=reader"}, map[string]string{"USERNAME": from("username"), "PASSWORD": from("password")}, ""},
		{"keys of other names", []string{"secretName=reader", "usernameKey=user", "passwordKey=pass.word"}, map[string]string{"USERNAME": from("user"), "PASSWORD": from("pass.word")}, ""},
		{"a token", []string{"secretName=reader", "tokenKey=bearer"}, map[string]string{"TOKEN_FILE": "/etc/nops-store/token"}, "bearer"},
		{"any certificate", []string{"insecureSkipVerify=true"}, map[string]string{"INSECURE": "true"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			values := base(at+"url=https://x", "nops.global.caBundle=x")
			for _, s := range tt.set {
				if err := strvals.ParseInto(at+s, values); err != nil {
					t.Fatal(err)
				}
			}
			manifests, _, err := render(t, values)
			if err != nil {
				t.Fatal(err)
			}
			hangTogether(t, values, manifests)
			for _, o := range manifests {
				if !workload(o) {
					continue
				}
				container, env, file := list(template(o), "spec", "containers")[0], map[string]string{}, ""
				for _, e := range list(container, "env") {
					if which, is := strings.CutPrefix(text(e, "name"), "NOPS_VPA_STORE_"); is {
						env[which] = strings.TrimSuffix(text(e, "value"), "<nil>") + strings.TrimSuffix(text(e, "valueFrom"), "<nil>")
					}
				}
				for _, v := range list(template(o), "spec", "volumes") {
					if get(v, "secret") == nil {
						continue
					}
					for _, m := range list(container, "volumeMounts") {
						// Of a subPath the kubelet renews nothing.
						if text(m, "name") == text(v, "name") && text(m, "readOnly") == "true" && get(m, "subPath") == nil && len(list(v, "secret", "items")) == 1 {
							item := list(v, "secret", "items")[0]
							file = fmt.Sprint(text(item, "key"), " at ", text(m, "mountPath"), "/", text(item, "path"))
						}
					}
				}
				want, token := tt.env, tt.token
				if name(o) != "Deployment/nops-vpa-recommender" {
					want, token = map[string]string{}, ""
				}
				if token != "" {
					token += " at " + want["TOKEN_FILE"]
				}
				if diff := cmp.Diff(want, env); diff != "" || file != token {
					t.Errorf("%s: mounts %q, want %q; variables:\n%s", name(o), file, token, diff)
				}
			}
		})
	}
}

// TestMatchConditionsByVersion: where the API server has none it would drop them without a word.
func TestMatchConditionsByVersion(t *testing.T) {
	for minor, refused := range map[int]bool{23: true, 27: true, 28: false, 36: false} {
		caps := eks()
		caps.KubeVersion = chartutil.KubeVersion{Version: fmt.Sprintf("v1.%d.4-eks-595af52", minor), Major: "1", Minor: fmt.Sprint(minor)}
		const set = "containerRightsizing.admissionController.matchConditions[0].name=owned,containerRightsizing.admissionController.matchConditions[0].expression=has(object.spec)"
		_, _, err := renderWith(t, load(t), base(set), caps)
		if got := err != nil && strings.Contains(err.Error(), "does not have them"); got != refused || err != nil && !refused {
			t.Errorf("1.%d: %v", minor, err)
		}
		for _, fine := range [][]string{nil, {set, "containerRightsizing.enabled=false"}} {
			if _, _, err := renderWith(t, load(t), base(fine...), caps); err != nil {
				t.Errorf("1.%d, %v: %v", minor, fine, err)
			}
		}
	}
}

// TestDocumentedConditions: the values that docs/vpa.md has are ones that the chart takes, and the webhook gets them.
func TestDocumentedConditions(t *testing.T) {
	data, err := os.ReadFile("../docs/vpa.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```yaml\n(containerRightsizing:\n.*?)```").FindAllStringSubmatch(string(data), -1)
	if len(found) != 1 {
		t.Fatalf("docs/vpa.md has %d blocks of values", len(found))
	}
	values := base()
	var documented object
	if err := yaml.Unmarshal([]byte(found[0][1]), &documented); err != nil {
		t.Fatal(err)
	}
	maps.Copy(values, documented)
	manifests, _, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	hooks, _ := find(t, manifests, "MutatingWebhookConfiguration/nops-vpa")["webhooks"].([]any)
	pods, _ := hooks[0].(object)
	if diff := cmp.Diff(get(documented, "containerRightsizing", "admissionController", "matchConditions"), pods["matchConditions"]); diff != "" {
		t.Error(diff)
	}
}

// TestNamespacesOfTheWebhook: about pods that are left alone the API server does not ask, so that they do not wait for a webhook that hangs.
func TestNamespacesOfTheWebhook(t *testing.T) {
	for want, set := range map[string][]string{
		"[kube-system nops]":             nil,
		"[kube-system nops quiet other]": {"containerRightsizing.ignoreNamespaces={quiet,other,kube-system}"},
	} {
		manifests, _, err := render(t, base(set...))
		if err != nil {
			t.Fatal(err)
		}
		hooks, _ := find(t, manifests, "MutatingWebhookConfiguration/nops-vpa")["webhooks"].([]any)
		pods, _ := hooks[0].(object)
		terms, _ := get(pods, "namespaceSelector", "matchExpressions").([]any)
		if term, _ := terms[0].(object); len(terms) != 1 || term["operator"] != "NotIn" || fmt.Sprint(term["values"]) != want {
			t.Errorf("%v: %v, want %s", set, terms, want)
		}
	}
}

// TestPolicyByVersion: the API server holds karpenops to what it owns where it can, and where it cannot people are told.
func TestPolicyByVersion(t *testing.T) {
	for minor := 28; minor <= 36; minor++ {
		caps := eks()
		caps.KubeVersion = chartutil.KubeVersion{Version: fmt.Sprintf("v1.%d.4-eks-595af52", minor), Major: "1", Minor: fmt.Sprint(minor)}
		manifests, notes, err := renderWith(t, load(t), base("karpenops.enabled=true", "karpenops.clusterId=x"), caps)
		if err != nil {
			t.Fatalf("1.%d: %v", minor, err)
		}
		found := 0
		for _, o := range manifests {
			if strings.HasPrefix(text(o, "kind"), "ValidatingAdmissionPolicy") {
				found++
			}
		}
		if can := minor >= 30; (found == 2) != can || (found == 0) == can || strings.Contains(notes, "has no ValidatingAdmissionPolicy") == can {
			t.Errorf("1.%d: %d objects of the policy, and NOTES:\n%s", minor, found, notes)
		}
	}
}

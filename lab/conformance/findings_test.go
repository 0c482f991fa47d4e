package conformance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scored are the kinds that kube-score looks at.
func scored(kind string) bool {
	return slices.Contains([]string{"Deployment", "DaemonSet", "StatefulSet", "CronJob", "Job", "Service", "NetworkPolicy", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Ingress"}, kind)
}

// kubeScore judges one render with every check there is; annotations that silence one are not heard.
func kubeScore(t *testing.T, render, path string) Scored {
	t.Helper()
	program := os.Getenv("NOPSCTL_KUBE_SCORE")
	if program == "" {
		t.Skip("NOPSCTL_KUBE_SCORE names no kube-score: whether its findings are the reviewed ones is left open (make test-unit sets it)")
	}
	out, err := exec.Command(program, "score", "--output-format", "json", "--kubernetes-version", "v1.36", "--all-default-optional", "--disable-ignore-checks-annotations", path).Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1 || len(exit.Stderr) > 0) { // 1: there are findings
		t.Fatalf("kube-score of %s: %v\n%s", path, err, exit.Stderr)
	}
	s, err := ParseScore(render, out)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func acceptances(t *testing.T, ours func(check string) bool) []Acceptance {
	t.Helper()
	data, err := os.ReadFile("findings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all, err := ParseAcceptances(data)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(a Acceptance) bool { return !ours(a.Check) })
}

func review(t *testing.T, findings []Finding, accepted []Acceptance) {
	t.Helper()
	news, stale := Review(findings, accepted)
	for _, n := range news {
		t.Errorf("new: %s\n\tmend the chart, or accept it in findings.yaml with the reason why it stays", n)
	}
	for _, s := range stale {
		t.Errorf("stale: no finding needs %s any more: take it out of findings.yaml", s)
	}
	t.Logf("%d findings, %d entries accept them", len(findings), len(accepted))
}

// TestAcceptancesNameRenders: a pattern for renders that are gone accepts, or refuses, nothing.
func TestAcceptancesNameRenders(t *testing.T) {
	names := names(t, "golden")
	for _, a := range acceptances(t, func(string) bool { return true }) {
		for _, p := range slices.Concat(a.Cases, a.NotIn) {
			if !slices.ContainsFunc(names, func(name string) bool { return matches(p, name) }) {
				t.Errorf("%s: no render is called %s", a.Check, p)
			}
		}
	}
}

func fromKubeScore(check string) bool { return strings.HasPrefix(check, "kube-score/") }

// TestKubeScore: what the real kube-score finds is what was reviewed.
func TestKubeScore(t *testing.T) {
	var findings []Finding
	for _, r := range renders(t) {
		s := kubeScore(t, r.name, r.path)
		for _, o := range r.objects {
			if scored(o.Kind) && !slices.Contains(s.Objects, o.ID()) {
				t.Errorf("%s: kube-score did not look at %s", r.name, o.ID())
			}
		}
		if s.Checks < 25 {
			t.Errorf("%s: only %d checks of %v", r.name, s.Checks, s.Objects)
		}
		findings = append(findings, s.Findings...)
	}
	review(t, findings, acceptances(t, fromKubeScore))
}

// TestKubeScoreCanFail plants what it must find.
func TestKubeScoreCanFail(t *testing.T) {
	path := t.TempDir() + "/planted.yaml"
	if err := os.WriteFile(path, []byte(planted("", "image: a:latest, securityContext: {privileged: true}")), 0o600); err != nil {
		t.Fatal(err)
	}
	found := kubeScore(t, "planted", path).Findings
	for _, want := range []string{"kube-score/container-image-tag", "kube-score/container-resources", "kube-score/container-security-context-privileged", "kube-score/pod-networkpolicy"} {
		if !slices.ContainsFunc(found, func(f Finding) bool {
			return f.Check == want && strings.HasPrefix(f.Object, "Deployment/a") && f.Says != ""
		}) {
			t.Errorf("no %s in %v", want, found)
		}
	}
}

// TestRules: likewise for the Pod Security Standards and for what kube-score does not look at.
func TestRules(t *testing.T) {
	var findings []Finding
	pods := 0
	for _, r := range renders(t) {
		found, err := Inspect(r.name, r.objects)
		if err != nil {
			t.Fatal(err)
		}
		findings = append(findings, found...)
		for _, o := range r.objects {
			if o.Pod != nil {
				pods++
			}
		}
	}
	if pods < 30 {
		t.Fatalf("only %d workloads", pods)
	}
	review(t, findings, acceptances(t, func(check string) bool { return !fromKubeScore(check) }))
}

// planted is a workload with no faults but those given: of its pod, and of its container.
func planted(pod, container string) string {
	if !strings.Contains(pod, "securityContext") {
		pod += ", securityContext: {runAsNonRoot: true, runAsUser: 65534, seccompProfile: {type: RuntimeDefault}}"
	}
	if !strings.Contains(pod, "automount") {
		pod += ", automountServiceAccountToken: false"
	}
	if !strings.Contains(pod, "priority") {
		pod += ", priorityClassName: p"
	}
	if !strings.Contains(container, "securityContext") {
		container += ", securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}"
	}
	for _, probe := range []string{"livenessProbe", "readinessProbe"} {
		if !strings.Contains(container, probe) {
			container += fmt.Sprintf(", %s: {tcpSocket: {port: 80}}", probe)
		}
	}
	return "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 1, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i:1, " +
		strings.TrimPrefix(container, ", ") + "}], " + strings.TrimPrefix(pod, ", ") + "}}}\n"
}

// TestEveryRuleFinds: each rule, alone, on what it is there for; and nothing on a workload without faults.
func TestEveryRuleFinds(t *testing.T) {
	role := func(kind, rule string) string {
		return "apiVersion: rbac.authorization.k8s.io/v1\nkind: " + kind + "\nmetadata: {name: a}\nrules: [" + rule + "]\n"
	}
	pdb := func(spec string) string {
		return "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, " + spec + "}\n" + planted("", "")
	}
	found := map[string]bool{}
	for _, tt := range []struct {
		check, render string
		want          string   // object: what it says
		also          []string // what comes with it
	}{
		{"", planted("", ""), "", nil},
		{"pod-security/allowPrivilegeEscalation", planted("", "securityContext: {capabilities: {drop: [ALL]}}"), "Deployment/a: allowPrivilegeEscalation != false: container \"c\" must set securityContext.allowPrivilegeEscalation=false", nil},
		{"pod-security/capabilities_restricted", planted("", "securityContext: {allowPrivilegeEscalation: false}"), "Deployment/a: unrestricted capabilities: container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]", nil},
		{"pod-security/privileged", planted("", "securityContext: {privileged: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}"), "Deployment/a: privileged: container \"c\" must not set securityContext.privileged=true", nil},
		{"pod-security/hostNamespaces", planted("hostNetwork: true, hostPID: true", ""), "Deployment/a: host namespaces: hostNetwork=true, hostPID=true", nil},
		{"pod-security/restrictedVolumes", planted("volumes: [{name: v, hostPath: {path: /}}]", ""), "Deployment/a: restricted volume types: volume \"v\" uses restricted volume type \"hostPath\"", nil},
		{"pod-security/hostPorts", planted("", "ports: [{containerPort: 80, hostPort: 80}]"), "Deployment/a: hostPort: container \"c\" uses hostPort 80", nil},
		{"pod-security/runAsNonRoot", planted("securityContext: {seccompProfile: {type: RuntimeDefault}}", ""), "Deployment/a: runAsNonRoot != true: pod or container \"c\" must set securityContext.runAsNonRoot=true", nil},
		{"pod-security/runAsUser", planted("securityContext: {runAsNonRoot: true, runAsUser: 0, seccompProfile: {type: RuntimeDefault}}", ""), "Deployment/a: runAsUser=0: pod must not set runAsUser=0", nil},
		{"pod-security/seccompProfile_restricted", planted("securityContext: {runAsNonRoot: true}", ""), "Deployment/a: seccompProfile: pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"", nil},
		{"pod-security/sysctls", planted("securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}, sysctls: [{name: kernel.msgmax, value: '1'}]}", ""), "Deployment/a: forbidden sysctls: kernel.msgmax", nil},
		{"pod-security/seLinuxOptions", planted("securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}, seLinuxOptions: {user: u}}", ""), "Deployment/a: seLinuxOptions: pod set forbidden securityContext.seLinuxOptions: user may not be set", nil},
		{"pod-security/appArmorProfile", planted("", "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, appArmorProfile: {type: Unconfined}}"), "Deployment/a: forbidden AppArmor profile: container \"c\" must not set AppArmor profile type to \"Unconfined\"", nil},
		{"pod-security/hostProbesAndHostLifecycle", planted("", "livenessProbe: {tcpSocket: {port: 80, host: 192.0.2.1}}"), "Deployment/a: probe or lifecycle host: container \"c\" uses probe or lifecycle host \"192.0.2.1\"", nil},
		{"pod-security/windowsHostProcess", planted("", "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, windowsOptions: {hostProcess: true}}"), "Deployment/a: hostProcess: container \"c\" must not set securityContext.windowsOptions.hostProcess=true", nil},
		{"pod-security/procMount_restricted", planted("", "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, procMount: Unmasked}"), "Deployment/a: procMount: container \"c\" must not set securityContext.procMount to \"Unmasked\"", nil},
		{"rule/liveness-probe", strings.Replace(planted("", ""), "livenessProbe", "startupProbe", 1), "Deployment/a/c: no liveness probe", nil},
		{"rule/readiness-probe", strings.Replace(planted("", ""), "readinessProbe", "startupProbe", 1), "Deployment/a/c: no readiness probe", nil},
		{"rule/token", planted("automountServiceAccountToken: true", ""), "Deployment/a: a token is mounted", nil},
		{"rule/priority", planted("priorityClassName: ''", ""), "Deployment/a: no priority class", nil},
		{"rule/writes-to-node", planted("volumes: [{name: v, hostPath: {path: /var}}, {name: w, hostPath: {path: /proc}}]", "volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /w, readOnly: true}]"), "Deployment/a/c: /var of the node", []string{"pod-security/restrictedVolumes Deployment/a: restricted volume types: volumes \"v\", \"w\" use restricted volume type \"hostPath\""}},
		{"rule/plain-credential", planted("", "env: [{name: X_TOKEN, value: abc}, {name: X_TOKEN_FILE, value: /t}, {name: Y_SECRET, valueFrom: {secretKeyRef: {name: a, key: b}}}]"), "Deployment/a/c: variable X_TOKEN", nil},
		{"rule/plain-credential", planted("", "args: [--api-key=abcdefgh, --api-key-file=/x, --password=$(P)]"), "Deployment/a/c: argument --api-key", nil},
		{"rule/plain-credential", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: 'password: hunter22', y: 'password_file: /a/b'}\n", "ConfigMap/a: key x", nil},
		{"rule/rbac-wildcard", role("Role", "{apiGroups: [apps], resources: ['*'], verbs: [get]}"), "Role/a: a wildcard: apps/*: get", nil},
		{"rule/rbac-wildcard", role("Role", "{apiGroups: [''], resources: ['*/exec'], verbs: [create]}"), "Role/a: a wildcard: /*/exec: create", nil},
		{"rule/rbac-takeover", role("Role", "{apiGroups: [''], resources: [pods, pods/exec], verbs: [get, create]}"), "Role/a: pods/exec: get create", nil},
		{"rule/rbac-takeover", role("ClusterRole", "{apiGroups: [rbac.authorization.k8s.io], resources: [roles], resourceNames: [x], verbs: [bind]}"), "ClusterRole/a: roles: bind", nil},
		{"rule/rbac-takeover", role("Role", "{apiGroups: [''], resources: [secrets], resourceNames: [x, z], verbs: [get]}"), "Role/a: secrets x z: get", nil},
		{"rule/rbac-writes-everywhere", role("ClusterRole", "{apiGroups: [apps], resources: [deployments], verbs: [get, patch]}"), "ClusterRole/a: apps/deployments: patch", nil},
		{"rule/rbac-broad-binding", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: a}\nroleRef: {kind: ClusterRole, name: cluster-admin}\nsubjects: [{kind: ServiceAccount, name: a}]\n", "ClusterRoleBinding/a: binds cluster-admin", nil},
		{"rule/rbac-broad-binding", "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: a}\nroleRef: {kind: Role, name: a}\nsubjects: [{kind: Group, name: 'system:authenticated'}]\n", "RoleBinding/a: binds to group system:authenticated", nil},
		{"rule/exposed-service", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: LoadBalancer}\n", "Service/a: type LoadBalancer, external addresses []", nil},
		{"rule/no-eviction", pdb("maxUnavailable: 0"), "PodDisruptionBudget/a: maxUnavailable 0", nil},
		{"rule/no-eviction", pdb("minAvailable: 1"), "PodDisruptionBudget/a: minAvailable 1 of 1 replicas of Deployment/a", nil},
		{"", pdb("maxUnavailable: 1"), "", nil},
		{"rule/webhook-fails-closed", "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingWebhookConfiguration\nmetadata: {name: a}\nwebhooks: [{name: w.b.c, failurePolicy: Fail}, {name: x.b.c, failurePolicy: Ignore}]\n", "MutatingWebhookConfiguration/a/w.b.c: failurePolicy is not Ignore", nil},
	} {
		t.Run(tt.check+" "+tt.want, func(t *testing.T) {
			objects, err := (&Parser{}).Parse([]byte(tt.render))
			if err != nil {
				t.Fatal(err)
			}
			findings, err := Inspect("planted", objects)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range findings {
				if f.Check == tt.check {
					found[f.Check] = true
				}
				got = append(got, f.Check+" "+f.Object+": "+f.Says)
			}
			var want []string
			if tt.check != "" {
				want = append(want, tt.also...)
				want = append(want, tt.check+" "+tt.want)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, r := range Rules() {
		if !found[r.ID] {
			t.Errorf("no planted fault shows that %s finds anything", r.ID)
		}
		if r.Reason == "" {
			t.Errorf("%s gives no reason", r.ID)
		}
	}
}

func TestReview(t *testing.T) {
	finding := func(render, check, object, says string) Finding { return Finding{render, check, object, says} }
	entry := func(check, says string, objects ...string) Acceptance {
		return Acceptance{Check: check, Says: says, Objects: objects}
	}
	some := []Finding{finding("one", "k/limit", "Deployment/nops-a/c", "CPU limit is not set"), finding("two", "k/limit", "Deployment/nops-a/c", "CPU limit is not set")}
	for _, tt := range []struct {
		name, reason string
		findings     []Finding
		accepted     []Acceptance
		news, stale  []string
	}{
		{"accepted", "", some, []Acceptance{entry("k/limit", "CPU limit is not set", "Deployment/nops-*/*")}, nil, nil},
		{"new", "the same in two renders is one line", some, nil, []string{`k/limit: Deployment/nops-a/c: "CPU limit is not set" (in one, two)`}, nil},
		{"stale", "", nil, []Acceptance{entry("k/limit", "CPU limit is not set", "Deployment/nops-a/*")}, nil, []string{`k/limit: "CPU limit is not set" of Deployment/nops-a/*`}},
		{"one pattern stale", "each pattern must earn its place", some, []Acceptance{entry("k/limit", "CPU limit is not set", "Deployment/nops-a/*", "DaemonSet/*/*")}, nil, []string{`k/limit: "CPU limit is not set" of DaemonSet/*/*`}},
		{"another check", "", some, []Acceptance{entry("k/other", "CPU limit is not set", "Deployment/nops-*/*")}, []string{`k/limit: Deployment/nops-a/c: "CPU limit is not set" (in one, two)`}, []string{`k/other: "CPU limit is not set" of Deployment/nops-*/*`}},
		{"other words", "what was accepted is this finding and not the check", some, []Acceptance{entry("k/limit", "Memory limit is not set", "Deployment/nops-*/*")}, []string{`k/limit: Deployment/nops-a/c: "CPU limit is not set" (in one, two)`}, []string{`k/limit: "Memory limit is not set" of Deployment/nops-*/*`}},
		{"the start of the words", "", some, []Acceptance{entry("k/limit", "CPU limit*", "Deployment/nops-*/*")}, nil, nil},
		{"a star stays in its part", "the pod and its containers are different things", some, []Acceptance{entry("k/limit", "CPU limit is not set", "Deployment/*")}, []string{`k/limit: Deployment/nops-a/c: "CPU limit is not set" (in one, two)`}, []string{`k/limit: "CPU limit is not set" of Deployment/*`}},
		{"in one case alone", "", some, []Acceptance{{Check: "k/limit", Says: "*", Objects: []string{"*/*/*"}, Cases: []string{"o*"}}}, []string{`k/limit: Deployment/nops-a/c: "CPU limit is not set" (in two)`}, nil},
		{"not in one case", "a switch that mends it must go on mending it", some, []Acceptance{{Check: "k/limit", Says: "*", Objects: []string{"*/*/*"}, NotIn: []string{"t*"}}}, []string{`k/limit: Deployment/nops-a/c: "CPU limit is not set" (in two)`}, nil},
		{"covered by another entry", "it would outlive its finding unseen", some, []Acceptance{entry("k/limit", "*", "*/*/*"), entry("k/limit", "*", "Deployment/*/*")}, nil, []string{`k/limit: "*" of Deployment/*/*`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			news, stale := Review(tt.findings, tt.accepted)
			if diff := cmp.Diff([][]string{tt.news, tt.stale}, [][]string{news, stale}); diff != "" {
				t.Errorf("%s\n%s", tt.reason, diff)
			}
		})
	}
}

func TestParseAcceptances(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"an unknown field", "accepted: [{check: a, says: b, objects: [c], reasons: d}]", "unknown field"},
		{"no reason", "accepted: [{check: a, says: b, objects: [c]}]", "accepted finding 1 (a): check, says, objects and a reason"},
		{"a word for a reason", "accepted: [{check: a, says: b, objects: [c], reason: intended}]", "reason of some words"},
		{"no object", "accepted: [{check: a, says: b, reason: it is all the same}]", "objects"},
		{"a broken pattern", "accepted: [{check: a, says: b, objects: ['[x'], reason: it is all the same}]", `pattern "[x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseAcceptances([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestParseScore(t *testing.T) {
	s, err := ParseScore("r", []byte(`[{"type_meta": {"kind": "Deployment"}, "object_meta": {"name": "a"}, "checks": [
		{"check": {"id": "x", "comment": "about x"}, "grade": 1, "comments": [{"path": "c", "summary": "no limit"}, {"path": "", "summary": "no request"}]},
		{"check": {"id": "y", "comment": "about y"}, "grade": 5, "comments": null},
		{"check": {"id": "skipped"}, "grade": 1, "skipped": true}, {"check": {"id": "good"}, "grade": 10}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	want := Scored{Objects: []string{"Deployment/a"}, Checks: 4, Findings: []Finding{
		{"r", "kube-score/x", "Deployment/a", "no request"}, {"r", "kube-score/x", "Deployment/a/c", "no limit"}, {"r", "kube-score/y", "Deployment/a", "about y"},
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
	if _, err := ParseScore("r", []byte("Failed to score")); err == nil || !strings.Contains(err.Error(), "parse the output of kube-score for r") {
		t.Errorf("%v for what is no JSON", err)
	}
}

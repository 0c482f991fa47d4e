package extract_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/pkg/verify/extract"
)

const one = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func objects(t testing.TB, manifest string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, doc := range strings.Split("\n"+manifest, "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v:\n%s", err, doc)
		}
		if len(o) > 0 {
			all = append(all, o)
		}
	}
	return all
}

// lines are uses in a form to compare: kind, object, path, text.
func lines(uses []extract.Use) []string {
	var all []string
	for _, u := range uses {
		s := fmt.Sprintf("%s | %s | %s | %s", u.Kind, u.Object, u.Path, u.Text)
		if u.Err != nil {
			s += " | no reference"
		}
		all = append(all, s)
	}
	return all
}

const pod = `{containers: [{name: c, image: "x.example/c:1"}], initContainers: [{name: i, image: "x.example/i:1"}], ephemeralContainers: [{name: e, image: "x.example/e:1"}], volumes: [{name: v, image: {reference: "x.example/v:1", pullPolicy: Always}}, {name: w, emptyDir: {}}]}`

func TestEveryKindOfPod(t *testing.T) {
	kinds := 0
	for _, tt := range []struct{ kind, version, wrap, at string }{
		{"Pod", "v1", "spec: %s", "spec"},
		{"Deployment", "apps/v1", "spec: {template: {spec: %s}}", "spec.template.spec"},
		{"DaemonSet", "apps/v1", "spec: {template: {spec: %s}}", "spec.template.spec"},
		{"StatefulSet", "apps/v1", "spec: {template: {spec: %s}}", "spec.template.spec"},
		{"ReplicaSet", "apps/v1", "spec: {template: {spec: %s}}", "spec.template.spec"},
		{"ReplicationController", "v1", "spec: {template: {spec: %s}}", "spec.template.spec"},
		{"Job", "batch/v1", "spec: {template: {spec: %s}}", "spec.template.spec"},
		{"CronJob", "batch/v1", "spec: {jobTemplate: {spec: {template: {spec: %s}}}}", "spec.jobTemplate.spec.template.spec"},
		{"PodTemplate", "v1", "template: {spec: %s}", "template.spec"},
		{"Rollout", "argoproj.io/v1alpha1", "spec: {template: {spec: %s}}", "spec.template.spec"},
		{"Prometheus", "monitoring.coreos.com/v1", "spec: %s", "spec"},
		{"RayCluster", "ray.io/v1", "spec: {workerGroupSpecs: [{template: {spec: %s}}]}", "spec.workerGroupSpecs[0].template.spec"},
	} {
		o := objects(t, fmt.Sprintf("kind: %s\napiVersion: %s\nmetadata: {name: one, namespace: ns}\n", tt.kind, tt.version)+fmt.Sprintf(tt.wrap, pod))
		var want []string
		for _, place := range []string{"containers[0].image | x.example/c:1", "ephemeralContainers[0].image | x.example/e:1", "initContainers[0].image | x.example/i:1", "volumes[0].image.reference | x.example/v:1"} {
			want = append(want, fmt.Sprintf("image | %s ns/one | %s.%s", tt.kind, tt.at, place))
		}
		if diff := cmp.Diff(want, lines(extract.Find(o))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.kind, diff)
		}
		list := []map[string]any{{"kind": "List", "apiVersion": "v1", "items": []any{o[0]}}}
		if diff := cmp.Diff(want, lines(extract.Find(list))); diff != "" {
			t.Errorf("%s in a list (-want +got):\n%s", tt.kind, diff)
		}
		kinds++
	}
	if kinds < 12 {
		t.Errorf("%d kinds", kinds)
	}
}

// operator is a chart of the kind that hides images from whoever reads only the field that is called image.
const operator = `
kind: Deployment
apiVersion: apps/v1
metadata: {name: operator, namespace: monitoring}
spec:
  template:
    metadata:
      annotations:
        sidecar.istio.io/proxyImage: docker.io/istio/proxyv2:1.22.0
        checksum/config: 90a87d0543c3f094dbff9589b6649affe2f3d6e0f308799be2258461c686473f
        kubectl.kubernetes.io/last-applied-configuration: '{"image":"quay.io/old/one:1"}'
    spec:
      containers:
      - name: operator
        image: quay.io/prometheus-operator/prometheus-operator:v0.85.0
        command: ["/bin/operator", "--sidecar-image=quay.io/thanos/thanos:v0.39.0"]
        args:
        - --prometheus-config-reloader=quay.io/prometheus-operator/prometheus-config-reloader:v0.85.0
        - --alertmanager-image
        - alertmanager
        - --default-image
        - prom/alertmanager
        - --kubelet-service=kube-system/kubelet
        - --web.listen-address=0.0.0.0:8080
        - --labels=kubernetes.io/os:linux,kubernetes.io/arch:amd64,karpenter.sh/capacity-type:spot
        - --image-pull-policy=Always
        - --url=https://registry.example.com/v2/x:1
        - --remote-write=vmagent.nops.svc:8429/api/v1/write
        - --template=registry.example.com/{{ .Name }}:1
        - --images=a.example/b:1,c.example/d@` + one + `
        env:
        - {name: RELATED_IMAGE_ALERTMANAGER, value: prom/alertmanager:v0.27.0}
        - {name: RELATED_IMAGE_BARE, value: alertmanager}
        - {name: EXPORTER_IMAGE, value: "docker://docker.io/prom/node-exporter:v1.12.1"}
        - {name: IMAGE_PULL_POLICY, value: IfNotPresent}
        - {name: JSON, value: '{"vmImage":"vm/agent","other":"vm/agent","strong":"ghcr.io/vm/agent:v1"}'}
        - {name: ESCAPED, value: '{"config":"{\"image\":\"a/b\",\"other\":\"a/b\",\"x\":\"quay.io/c/d:1\"}"}'}
        - {name: PATH, value: "/usr/bin:/bin"}
        - {name: NODE_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
---
kind: ConfigMap
apiVersion: v1
metadata: {name: sidecars, namespace: monitoring}
data:
  template.yaml: |
    containers:
    - name: proxy
      image: envoyproxy/envoy:v1.30.0
    - name: strong # public.ecr.aws/nops/vpa:0.1.0
    rules: sum by (job) (rate(http_requests_total{path=~"/api/v1:x"}[5m]))
    record: namespace:container_cpu_usage:sum
    type: image/png
    logoImage: assets/logo.png
    metric_relabel: {source_labels: [image], regex: "a/b:1"}
  image: nginx:1.27
binaryData: {x: cXVheS5pby9hL2I6MQ==}
---
kind: Secret
apiVersion: v1
metadata: {name: hidden, namespace: monitoring}
stringData: {image: "quay.io/never/read:1"}
---
kind: Prometheus
apiVersion: monitoring.coreos.com/v1
metadata: {name: k8s, namespace: monitoring}
spec:
  image: quay.io/prometheus/prometheus:v3.8.1
  baseImage: quay.io/prometheus/prometheus
  imagePullPolicy: Always
  containers: [{name: own, image: "quay.io/own/sidecar:1"}]
  thanos: {image: thanos}
  workers: [{image: "quay.io/worker/worker:1"}]
---
kind: CustomResourceDefinition
apiVersion: apiextensions.k8s.io/v1
metadata: {name: prometheuses.monitoring.coreos.com}
spec: {versions: [{schema: {openAPIV3Schema: {properties: {image: {type: string, default: "quay.io/a/b:1"}, containers: {type: array, items: {type: object}}}}}}]}
`

func TestSuspects(t *testing.T) {
	want := []string{
		"suspect | Deployment monitoring/operator | spec.template.metadata.annotations[\"sidecar.istio.io/proxyImage\"] | docker.io/istio/proxyv2:1.22.0",
		"image | Deployment monitoring/operator | spec.template.spec.containers[0].image | quay.io/prometheus-operator/prometheus-operator:v0.85.0",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].command[1] | quay.io/thanos/thanos:v0.39.0",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].args[0] | quay.io/prometheus-operator/prometheus-config-reloader:v0.85.0",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].args[4] | prom/alertmanager",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].args[12] | a.example/b:1",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].args[12] | c.example/d@" + one,
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].env[0].value | prom/alertmanager:v0.27.0",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].env[2].value | docker.io/prom/node-exporter:v1.12.1",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].env[4].value | vm/agent",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].env[4].value | ghcr.io/vm/agent:v1",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].env[5].value | a/b",
		"suspect | Deployment monitoring/operator | spec.template.spec.containers[0].env[5].value | quay.io/c/d:1",
		"suspect | ConfigMap monitoring/sidecars | data.image | nginx:1.27",
		"suspect | ConfigMap monitoring/sidecars | data[\"template.yaml\"] | envoyproxy/envoy:v1.30.0",
		"suspect | ConfigMap monitoring/sidecars | data[\"template.yaml\"] | public.ecr.aws/nops/vpa:0.1.0",
		"suspect | Prometheus monitoring/k8s | spec.baseImage | quay.io/prometheus/prometheus",
		"image | Prometheus monitoring/k8s | spec.containers[0].image | quay.io/own/sidecar:1",
		"suspect | Prometheus monitoring/k8s | spec.image | quay.io/prometheus/prometheus:v3.8.1",
		"suspect | Prometheus monitoring/k8s | spec.workers[0].image | quay.io/worker/worker:1",
	}
	if diff := cmp.Diff(want, lines(extract.Find(objects(t, operator)))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestGoldenRenders: the chart's own renders hold every image that a reader finds, and nothing in them is taken for one that
// is none.
func TestGoldenRenders(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "embedded-chart", "testdata", "golden", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 30 {
		t.Errorf("only %d renders", len(files))
	}
	suspects := map[string]string{} // text: why it is there; none yet
	total := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all := objects(t, string(data))
		pins := map[string]string{}
		images := 0
		for _, u := range extract.Find(all) {
			switch {
			case u.Err != nil:
				t.Errorf("%s: %v", file, u)
			case u.Kind == extract.Image:
				images++
				pins[u.Text] = u.Reference.At(one).String()
				if u.Pinned() {
					delete(pins, u.Text)
				}
			case suspects[u.Text] == "":
				t.Errorf("%s: %s %s looks like an image: %s", file, u.Object, u.Path, u.Text)
			}
		}
		if written := strings.Count(string(data), " image: "); images != written {
			t.Errorf("%s: %d images found, %d are written there", file, images, written)
		}
		total += images
		for _, o := range all {
			extract.Pin(o, pins)
		}
		for _, u := range extract.Find(all) {
			if !u.Pinned() {
				t.Errorf("%s: %s is not pinned", file, u.Text)
			}
		}
	}
	if total < 240 {
		t.Errorf("only %d images", total)
	}
}

func TestPin(t *testing.T) {
	all := objects(t, operator)
	before := objects(t, operator)
	pins := map[string]string{
		"quay.io/prometheus-operator/prometheus-operator:v0.85.0":        "quay.io/prometheus-operator/prometheus-operator:v0.85.0@" + one,
		"quay.io/prometheus-operator/prometheus-config-reloader:v0.85.0": "quay.io/prometheus-operator/prometheus-config-reloader:v0.85.0@" + one,
		"a.example/b:1":                        "a.example/b:1@" + one,
		"docker.io/prom/alertmanager:v0.27.0":  "prom/alertmanager:v0.27.0@" + one, // named in full
		"docker.io/prom/alertmanager:latest":   "docker.io/prom/alertmanager:latest@" + one,
		"ghcr.io/vm/agent:v1":                  "ghcr.io/evil/agent:v1@" + one, // another image: no pin
		"quay.io/own/sidecar:1":                "quay.io/own/sidecar:1",        // no digest: no pin
		"public.ecr.aws/nops/vpa:0.1.0":        "public.ecr.aws/nops/vpa:0.1.0@" + one,
		"docker.io/istio/proxyv2:1.22.0":       "docker.io/istio/proxyv2:1.22.0@" + one,
		"quay.io/prometheus/prometheus:v3.8.1": "quay.io/prometheus/prometheus:v3.8.1@" + one,
		"c.example/d@" + one:                   "c.example/d@sha256:" + strings.Repeat("2", 64),
		"docker.io/prom/node-exporter:v1.12.1": "docker.io/prom/node-exporter:v1.12.1@" + one,
		"quay.io/thanos/thanos:v0.39.0":        "quay.io/thanos/thanos:v0.39.1@" + one, // another tag: no pin
	}
	changed := 0
	for _, o := range all {
		changed += extract.Pin(o, pins)
	}
	const places = 6 // the image, the reloader, --default-image, --images, RELATED_IMAGE_ALERTMANAGER, EXPORTER_IMAGE
	if changed != places {
		t.Errorf("%d places changed, of %d", changed, places)
	}
	data, err := yaml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"image: quay.io/prometheus-operator/prometheus-operator:v0.85.0@" + one, "--prometheus-config-reloader=quay.io/prometheus-operator/prometheus-config-reloader:v0.85.0@" + one,
		"- docker.io/prom/alertmanager:latest@" + one, "--images=a.example/b:1@" + one + ",c.example/d@" + one + "\n", "value: prom/alertmanager:v0.27.0@" + one, "value: docker://docker.io/prom/node-exporter:v1.12.1@" + one,
		"image: quay.io/own/sidecar:1\n", "ghcr.io/vm/agent:v1\"", "--sidecar-image=quay.io/thanos/thanos:v0.39.0\n",
		"proxyImage: docker.io/istio/proxyv2:1.22.0\n", "public.ecr.aws/nops/vpa:0.1.0\n", "image: quay.io/prometheus/prometheus:v3.8.1\n", // annotations, ConfigMaps and custom resources are only told
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("there is no %q", want)
		}
	}
	again := 0
	for _, o := range all {
		again += extract.Pin(o, pins)
	}
	if again != 0 {
		t.Errorf("a second time changes %d places", again)
	}
	for i, o := range before {
		if extract.Pin(o, nil) != 0 || !reflect.DeepEqual(o, objects(t, operator)[i]) {
			t.Errorf("without pins something changes")
		}
	}
}

func TestOdd(t *testing.T) {
	for _, tt := range []struct {
		name, object string
		want         []string
	}{
		{"nothing", `{}`, nil},
		{"no reference", `{"kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"image":"UPPER CASE"}]}}`, []string{"image | Pod p | spec.containers[0].image | UPPER CASE | no reference"}},
		{"a number", `{"kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"image":5}]}}`, []string{"image | Pod p | spec.containers[0].image | 5 | no reference"}},
		{"left out", `{"kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"x"},{"image":""},{"image":null}]}}`, nil},
		{"not what they seem", `{"kind":5,"metadata":[],"spec":{"containers":{"image":"x.example/y:1"},"initContainers":["x"],"volumes":[{"image":"x"},5],"annotations":5}}`, nil},
		{"arguments that are none", `{"kind":"Pod","spec":{"containers":[{"image":"x.example/y:1","args":[5,"--image",6,"a/b"],"env":[7,{"name":"A_IMAGE"},{"value":5}],"command":"x"}]}}`, []string{"image | Pod | spec.containers[0].image | x.example/y:1"}},
		{"images in what a pod is", `{"kind":"Pod","metadata":{"name":"p"},"status":{"containerStatuses":[{"image":"x.example/y:1"}]}}`, nil},
		{"a kind that only ends like a list, and has items", `{"kind":"AllowList","apiVersion":"x.example/v1","metadata":{"name":"p"},"items":[5,{"containers":[{"image":"x.example/i:1"}]}],"spec":{"containers":[{"image":"x.example/y:1"}]}}`,
			[]string{"image | AllowList p | items[1].containers[0].image | x.example/i:1", "image | AllowList p | spec.containers[0].image | x.example/y:1"}},
		{"a kind that only ends like a list", `{"kind":"AllowList","apiVersion":"x.example/v1","metadata":{"name":"p"},"items":"none","image":"x.example/y:1"}`, []string{"suspect | AllowList p | image | x.example/y:1"}},
	} {
		var o map[string]any
		if err := json.Unmarshal([]byte(tt.object), &o); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, lines(extract.Find([]map[string]any{o}))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	deep := map[string]any{}
	for range 100_000 {
		deep = map[string]any{"spec": deep}
	}
	if found := extract.Find([]map[string]any{deep}); len(found) != 0 {
		t.Errorf("%v", found)
	}
}

func FuzzFind(f *testing.F) {
	for _, o := range objects(f, operator) {
		data, err := json.Marshal(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"kind":"List","items":[{"kind":"Pod","spec":` + `{"containers":[{"image":"nginx","args":["--image","a/b","--x=a.b/c:1@` + one + `"],"env":[{"name":"X_IMAGE","value":"a/b:1,c/d"}]}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o map[string]any
		if err := json.Unmarshal(data, &o); err != nil {
			return
		}
		all := []map[string]any{o}
		pins := map[string]string{}
		uses := extract.Find(all)
		for _, u := range uses {
			if u.Err == nil {
				if u.Reference.Repository == "" {
					t.Fatalf("%+v", u)
				}
				pins[u.Text] = u.Reference.OrLatest().At(one).String()
				if r := u.Reference; r.Digest != "" {
					pins[u.Text] = r.String()
				}
			} else if u.Kind != extract.Image {
				t.Fatalf("a suspect that is none: %+v", u)
			}
		}
		extract.Pin(o, pins)
		first, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		after := extract.Find(all)
		if len(after) != len(uses) {
			t.Fatalf("%d uses before, %d after:\n%v\n%v", len(uses), len(after), uses, after)
		}
		for i, u := range after {
			if u.Path != uses[i].Path || u.Kind != uses[i].Kind || u.Err == nil && u.Kind == extract.Image && (!u.Pinned() || u.Reference.Name() != uses[i].Reference.Name()) {
				t.Fatalf("%+v became %+v", uses[i], u)
			}
		}
		if n := extract.Pin(o, pins); n != 0 {
			t.Fatalf("pinning again changes %d places", n)
		}
		if second, err := json.Marshal(o); err != nil || string(first) != string(second) {
			t.Fatalf("%s\n%s", first, second)
		}
	})
}

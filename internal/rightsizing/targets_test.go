package rightsizing_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

func TestRestoreTargets(t *testing.T) {
	metric := func(name string, percent int32) autoscalingv2.MetricSpec {
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: corev1.ResourceName(name), Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
		}}
	}
	requests := autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType}
	const begin, remove = `[{"op":"test","path":"/metadata/resourceVersion","value":"7"},`, `{"op":"remove","path":"/metadata/annotations/vpa.nops.io~1original-targets"}`
	for _, c := range []struct {
		name    string
		text    string // of the annotation; empty: there is none
		metrics []autoscalingv2.MetricSpec
		want    string
	}{
		{"one that nobody touched", "", []autoscalingv2.MetricSpec{metric("cpu", 80)}, ""},
		{"one that follows", `{"cpu":{"percent":80,"milli":1000,"written":160}}`, []autoscalingv2.MetricSpec{requests, metric("cpu", 160)}, begin + remove + `,{"op":"replace","path":"/spec/metrics/1/resource/target/averageUtilization","value":80}]`},
		{"one that is back where it was", `{"cpu":{"percent":80,"milli":1000,"written":80}}`, []autoscalingv2.MetricSpec{metric("cpu", 80)}, begin + remove + `]`},
		{"somebody changed it just now", `{"cpu":{"percent":80,"milli":1000,"written":160}}`, []autoscalingv2.MetricSpec{metric("cpu", 120)}, begin + remove + `]`},
		{"somebody changed it before", `{"cpu":{"percent":80,"milli":1000,"written":120,"released":true}}`, []autoscalingv2.MetricSpec{metric("cpu", 120)}, begin + remove + `]`},
		{"one of two", `{"cpu":{"percent":80,"milli":1000,"written":160},"memory":{"percent":70,"milli":1000,"written":70}}`, []autoscalingv2.MetricSpec{metric("memory", 70), metric("cpu", 160)}, begin + remove + `,{"op":"replace","path":"/spec/metrics/1/resource/target/averageUtilization","value":80}]`},
		{"what nobody can read", `{"cpu":`, []autoscalingv2.MetricSpec{metric("cpu", 160)}, begin + remove + `]`},
	} {
		h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{Metrics: c.metrics}}
		if c.text != "" {
			h.Annotations = map[string]string{rightsizing.AnnotationTargets: c.text}
		}
		if diff := cmp.Diff(c.want, string(rightsizing.RestoreTargets(h))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// busy is a HorizontalPodAutoscaler that somebody else writes each time it was read, so many times.
type busy struct {
	writes  int
	missing bool
	h       *autoscalingv2.HorizontalPodAutoscaler
	patches []string
}

func (b *busy) Get(context.Context, string, metav1.GetOptions) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	if b.missing {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "horizontalpodautoscalers"}, "web")
	}
	read := b.h.DeepCopy()
	if b.writes > 0 {
		b.writes--
		b.h.ResourceVersion += "1"
	}
	return read, nil
}

func (b *busy) Patch(_ context.Context, _ string, _ types.PatchType, data []byte, _ metav1.PatchOptions, _ ...string) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	if !strings.Contains(string(data), `"value":"`+b.h.ResourceVersion+`"`) {
		return nil, apierrors.NewInvalid(schema.GroupKind{}, "web", nil)
	}
	b.patches = append(b.patches, string(data))
	return b.h, nil
}

func TestGiveTargetsBack(t *testing.T) {
	marked := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7", Annotations: map[string]string{rightsizing.AnnotationTargets: `{}`}}}
	for _, c := range []struct {
		name string
		b    busy
		did  bool
		err  string
	}{
		{"one that stands still", busy{h: marked.DeepCopy()}, true, ""},
		{"one that is written now and then", busy{h: marked.DeepCopy(), writes: 2}, true, ""},
		{"one that is written all the time", busy{h: marked.DeepCopy(), writes: 100}, false, "somebody wrote it"},
		{"one without targets of ours", busy{h: &autoscalingv2.HorizontalPodAutoscaler{}}, false, ""},
		{"one that is gone", busy{missing: true}, false, ""},
	} {
		did, err := rightsizing.GiveTargetsBack(t.Context(), &c.b, "web", "test")
		if did != c.did || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || (len(c.b.patches) == 1) != c.did {
			t.Errorf("%s: done: %t, %v, %d patches; want %t, %q", c.name, did, err, len(c.b.patches), c.did, c.err)
		}
	}
}

package embeddedchart_test

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// TestWhichNodes asks the scheduler's own code on which nodes the exporters of nodes run: no label has to be put there by hand,
// and no pod waits where it cannot work.
func TestWhichNodes(t *testing.T) {
	type m = map[string]string
	linux := func(more m) m {
		labels := m{"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
		for k, v := range more {
			labels[k] = v
		}
		return labels
	}
	gpu := corev1.Taint{Key: "nvidia.com/gpu", Value: "true", Effect: corev1.TaintEffectNoSchedule}
	for _, tt := range []struct {
		name, reason string
		labels       m
		taints       []corev1.Taint
		node, dcgm   bool
	}{
		{"plain", "no GPU", linux(m{"node.kubernetes.io/instance-type": "m7i.large"}), nil, true, false},
		{"managed node group", "EKS writes the instance type alone", linux(m{"node.kubernetes.io/instance-type": "g5.xlarge", "eks.amazonaws.com/nodegroup": "gpu"}), nil, true, true},
		{"tainted", "GPU nodes usually are", linux(m{"node.kubernetes.io/instance-type": "p4d.24xlarge"}), []corev1.Taint{gpu}, true, true},
		{"another taint", "the node-exporter goes everywhere, GPUs are where somebody says so", linux(m{"node.kubernetes.io/instance-type": "p4d.24xlarge"}), []corev1.Taint{{Key: "team", Effect: corev1.TaintEffectNoExecute}}, true, false},
		{"GPUs of AMD", "DCGM is NVIDIA's", linux(m{"node.kubernetes.io/instance-type": "g4ad.xlarge", "karpenter.k8s.aws/instance-gpu-manufacturer": "amd"}), nil, true, false},
		{"Karpenter", "", linux(m{"karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia", "node.kubernetes.io/instance-type": "g7.new"}), nil, true, true},
		{"Auto Mode", "", linux(m{"eks.amazonaws.com/instance-gpu-manufacturer": "nvidia"}), nil, true, true},
		{"eksctl", "", linux(m{"k8s.amazonaws.com/accelerator": "nvidia-tesla-v100"}), nil, true, true},
		{"GPU operator", "", linux(m{"nvidia.com/gpu.present": "true"}), nil, true, true},
		{"GPU operator, none", "it says false too", linux(m{"nvidia.com/gpu.present": "false"}), nil, true, false},
		{"node feature discovery, by vendor", "", linux(m{"feature.node.kubernetes.io/pci-10de.present": "true"}), nil, true, true},
		{"node feature discovery, by class and vendor", "", linux(m{"feature.node.kubernetes.io/pci-0302_10de.present": "true"}), nil, true, true},
		{"node feature discovery, another vendor", "", linux(m{"feature.node.kubernetes.io/pci-0300_1002.present": "true"}), nil, true, false},
		{"by hand", "as charts of 2024 asked for", linux(m{"gpu-type": "nvidia"}), nil, true, true},
		{"Fargate", "no pod of a DaemonSet runs there", linux(m{"eks.amazonaws.com/compute-type": "fargate"}), []corev1.Taint{{Key: "eks.amazonaws.com/compute-type", Value: "fargate", Effect: corev1.TaintEffectNoSchedule}}, false, false},
		{"Windows", "the images are Linux's", m{"kubernetes.io/os": "windows", "node.kubernetes.io/instance-type": "g4dn.xlarge"}, nil, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			manifests, _, err := render(t, base("nops.global.nodeSelector.pool=agents"))
			if err != nil {
				t.Fatal(err)
			}
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: tt.labels}, Spec: corev1.NodeSpec{Taints: tt.taints}}
			for workload, want := range map[string]bool{"DaemonSet/nops-node-exporter": tt.node, "DaemonSet/nops-dcgm-exporter": tt.dcgm} {
				data, err := json.Marshal(template(find(t, manifests, workload))["spec"])
				if err != nil {
					t.Fatal(err)
				}
				pod := &corev1.Pod{}
				if err := json.Unmarshal(data, &pod.Spec); err != nil {
					t.Fatal(err)
				}
				fits, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node)
				if err != nil {
					t.Fatal(err)
				}
				_, refused := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, func(x *corev1.Taint) bool { return x.Effect != corev1.TaintEffectPreferNoSchedule }, false)
				if got := fits && !refused; got != want {
					t.Errorf("%s runs there: %v, want %v (%s)", workload, got, want, tt.reason)
				}
			}
		})
	}
}

{{/* How often a job is scraped: one interval for all, or each its own. */}}
{{- define "nops.interval" -}}
{{- .root.Values.victoriaMetrics.scrapeInterval | default (get .root.Values.victoriaMetrics.scrapeIntervals .job) -}}
{{- end -}}

{{/* What every job that asks kubelets has in common. */}}
{{- define "nops.kubelet" -}}
scheme: https
bearer_token_file: /var/run/secrets/kubernetes.io/serviceaccount/token
tls_config:
  ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
  {{- if .Values.victoriaMetrics.kubeletInsecureSkipVerify }}
  insecure_skip_verify: true
  {{- end }}
kubernetes_sd_configs:
  - role: node
relabel_configs:
  # Fargate nodes show no kubelet to others.
  - action: drop
    source_labels: [__meta_kubernetes_node_label_eks_amazonaws_com_compute_type]
    regex: fargate
  # The name alone: a node's labels are 20 to 40 on EKS. They are on kube_node_labels, for joins.
  - source_labels: [__meta_kubernetes_node_name]
    target_label: node
{{- end -}}

{{/* Discovery of the stack's own exporters on the nodes, by component. */}}
{{- define "nops.onNodes" -}}
kubernetes_sd_configs:
  - role: pod
    namespaces:
      own_namespace: true
    selectors:
      - role: pod
        label: {{ printf "nops.io/component=%s" . | quote }}
relabel_configs:
  - action: keep
    source_labels: [__meta_kubernetes_pod_container_port_name]
    regex: http
  - source_labels: [__meta_kubernetes_pod_node_name]
    target_label: node
{{- end -}}

{{/* The rule that keeps what is listed. */}}
{{- define "nops.keep" -}}
- action: keep
  source_labels: [__name__]
  regex: {{ . | join "|" | quote }}
{{- end -}}

{{/*
What is scraped, for vmagent or, with server true, for the Prometheus server: both read it, so it uses what both understand. The
order of relabeling matters: rows are dropped while they can still be told apart.
*/}}
{{- define "nops.scrapeConfig" -}}
{{- $root := .root -}}
{{- $keep := $root.Files.Get "files/keep-list.yaml" | fromYaml -}}
global:
  scrape_interval: 60s
  scrape_timeout: 10s
  external_labels:
    cluster: {{ include "nops.arn" $root | quote }}
scrape_configs:
  - job_name: cadvisor
    scrape_interval: {{ include "nops.interval" (dict "root" $root "job" "cadvisor") }}
    metrics_path: /metrics/cadvisor
    # cAdvisor's own time stamps are those of its housekeeping: old, and out of order for the store.
    honor_timestamps: false
    {{- include "nops.kubelet" $root | nindent 4 }}
    metric_relabel_configs:
      {{- include "nops.keep" $keep.cadvisor | nindent 6 }}
      # Networks belong to the pod as a whole, machines to nobody; everything else to a container. Sums of cgroups have no
      # container, pauses none or POD (Docker): their rows would merge into the containers' once the labels that tell them
      # apart are gone.
      - source_labels: [__name__]
        regex: container_network_.+
        target_label: container
        replacement: ""
      - source_labels: [__name__]
        regex: container_network_.+
        target_label: __tmp_of
        replacement: pod
      - source_labels: [__name__]
        regex: machine_.+
        target_label: __tmp_of
        replacement: machine
      # How full a disk is, cAdvisor says of containerd's nodes for the root cgroup alone.
      - source_labels: [__name__, id, device]
        regex: container_fs_usage_bytes;/;/dev/(nvme|sd|vd|xvd).+
        target_label: __tmp_of
        replacement: node
      - action: drop
        source_labels: [__tmp_of, container]
        regex: ;(POD)?
      # Networks without a pod are the node's. Pods on the node's network show all of its interfaces, those of other pods too:
      # on EKS one for each.
      - action: drop
        source_labels: [__tmp_of, pod]
        regex: pod;
      - action: drop
        source_labels: [__tmp_of, interface]
        regex: pod;(eni|veth|cali|cilium_|lxc|cni|docker|dummy|flannel|kube-ipvs|nodelocaldns|tunl|vlan|vxlan).*
      # The pod's UID from its cgroup, written either way (cgroupfs, systemd).
      - source_labels: [id]
        regex: .*pod([0-9a-f]{8})[-_]([0-9a-f]{4})[-_]([0-9a-f]{4})[-_]([0-9a-f]{4})[-_]([0-9a-f]{12}).*
        target_label: pod_uid
        replacement: $1-$2-$3-$4-$5
      - action: labeldrop
        regex: id|name|image|boot_id|machine_id|system_uuid|__tmp_of
  {{- if $root.Values.victoriaMetrics.kubeletVolumeStats }}
  - job_name: kubelet
    scrape_interval: {{ include "nops.interval" (dict "root" $root "job" "kubelet") }}
    metrics_path: /metrics
    {{- include "nops.kubelet" $root | nindent 4 }}
    metric_relabel_configs:
      {{- include "nops.keep" $keep.kubelet | nindent 6 }}
  {{- end }}
  - job_name: node-exporter
    scrape_interval: {{ include "nops.interval" (dict "root" $root "job" "nodeExporter") }}
    {{- include "nops.onNodes" "node-exporter" | nindent 4 }}
    metric_relabel_configs:
      {{- include "nops.keep" $keep.nodeExporter | nindent 6 }}
  - job_name: kube-state-metrics
    scrape_interval: {{ include "nops.interval" (dict "root" $root "job" "kubeStateMetrics") }}
    # One target speaks for the whole cluster, 3 MB for every thousand pods: it may take all the time there is.
    scrape_timeout: {{ include "nops.interval" (dict "root" $root "job" "kubeStateMetrics") }}
    {{ ternary "body_size_limit: 512MB" "max_scrape_size: 512MiB" .server }}
    # Its labels name the objects it speaks of, not itself.
    honor_labels: true
    static_configs:
      - targets: [nops-kube-state-metrics.{{ $root.Release.Namespace }}.svc:8080]
    metric_relabel_configs:
      {{- include "nops.keep" (include "nops.kubeStateMetrics" $root | fromJsonArray) | nindent 6 }}
      # A phase that Kubernetes no longer sets.
      - action: drop
        source_labels: [__name__, phase]
        regex: kube_pod_status_phase;Unknown
      {{- $annotations := concat $keep.kubeStateMetrics.annotations.pods (get ($root.Values.prometheus.kubeStateMetrics.metricAnnotations | default dict) "pods" | default list) | uniq }}
      {{- if not (has "*" $annotations) }}
      # Pods without any of the listed annotations, which kube-state-metrics writes in snake case.
      - action: drop
        source_labels: [__name__{{ range $annotations }}, annotation_{{ regexReplaceAll "([a-z0-9])([A-Z])" (regexReplaceAll "[^a-zA-Z0-9_]" . "_") "${1}_${2}" | lower }}{{ end }}]
        regex: kube_pod_annotations;*
      {{- end }}
  {{- if include "nops.on" (dict "root" $root "component" "dcgm-exporter") }}
  - job_name: dcgm-exporter
    scrape_interval: {{ include "nops.interval" (dict "root" $root "job" "dcgmExporter") }}
    # Its labels name the pods that use the GPUs, not itself.
    honor_labels: true
    {{- include "nops.onNodes" "dcgm-exporter" | nindent 4 }}
    metric_relabel_configs:
      {{- include "nops.keep" $keep.dcgm | nindent 6 }}
      # Later versions write hostname; the node says the same.
      - action: labeldrop
        regex: Hostname|hostname
  {{- end }}
  {{- if .server }}
  - job_name: opencost
    scrape_interval: {{ include "nops.interval" (dict "root" $root "job" "opencost") }}
    # Its labels name the objects it speaks of, not itself.
    honor_labels: true
    static_configs:
      - targets: [nops-opencost.{{ $root.Release.Namespace }}.svc:9003]
    metric_relabel_configs:
      {{- include "nops.keep" $keep.opencost | nindent 6 }}
  {{- else }}
  - job_name: vmagent
    scrape_interval: {{ include "nops.interval" (dict "root" $root "job" "vmagent") }}
    static_configs:
      - targets: [127.0.0.1:8429]
    metric_relabel_configs:
      {{- include "nops.keep" $keep.vmagent | nindent 6 }}
  {{- end }}
{{- end -}}

{{/* The last gate before samples leave: vmagent adds series about every scrape that no job's relabeling can reach. */}}
{{- define "nops.remoteWriteRelabeling" -}}
{{- $keep := .Files.Get "files/keep-list.yaml" | fromYaml -}}
- action: drop
  if: '{__name__=~"scrape_.+",__name__!~"{{ $keep.scrapes | join "|" }}"}'
{{- end -}}

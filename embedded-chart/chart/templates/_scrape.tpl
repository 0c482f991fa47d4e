{{/* vmagent's configuration. The order of relabeling matters: rows are dropped while they can still be told apart. */}}
{{- define "nops.scrapeConfig" -}}
{{- $keep := .Files.Get "files/keep-list.yaml" | fromYaml -}}
{{- $interval := .Values.victoriaMetrics.scrapeInterval -}}
global:
  scrape_interval: {{ $interval | default "60s" }}
  scrape_timeout: {{ if $interval }}{{ $interval }}{{ else }}10s{{ end }}
  external_labels:
    cluster: {{ include "nops.arn" . | quote }}
scrape_configs:
  - job_name: cadvisor
    scrape_interval: {{ $interval | default "30s" }}
    scheme: https
    metrics_path: /metrics/cadvisor
    bearer_token_file: /var/run/secrets/kubernetes.io/serviceaccount/token
    tls_config:
      ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
      {{- if .Values.victoriaMetrics.kubeletInsecureSkipVerify }}
      insecure_skip_verify: true
      {{- end }}
    # cAdvisor's own time stamps are those of its housekeeping: old, and out of order for the store.
    honor_timestamps: false
    kubernetes_sd_configs:
      - role: node
    relabel_configs:
      # Fargate nodes show no kubelet to others.
      - action: drop
        source_labels: [__meta_kubernetes_node_label_eks_amazonaws_com_compute_type]
        regex: fargate
      - source_labels: [__meta_kubernetes_node_name]
        target_label: node
    metric_relabel_configs:
      - action: keep
        source_labels: [__name__]
        regex: {{ $keep.cadvisor | join "|" }}
      # Sums of cgroups and pauses have no container; networks belong to the pod as a whole.
      - action: drop
        if: '{__name__!~"container_network_.+|machine_.+",container=""}'
      - action: drop
        if: '{__name__=~"container_network_.+",pod=""}'
      # The pod's UID from its cgroup, written either way (cgroupfs, systemd).
      - source_labels: [id]
        regex: .*pod([0-9a-f]{8})[-_]([0-9a-f]{4})[-_]([0-9a-f]{4})[-_]([0-9a-f]{4})[-_]([0-9a-f]{12}).*
        target_label: pod_uid
        replacement: $1-$2-$3-$4-$5
      - action: labeldrop
        regex: id|name|image|boot_id|machine_id|system_uuid
  - job_name: node-exporter
    kubernetes_sd_configs:
      - role: pod
        namespaces:
          own_namespace: true
        selectors:
          - role: pod
            label: app.kubernetes.io/component=node-exporter
    relabel_configs:
      - action: keep
        source_labels: [__meta_kubernetes_pod_container_port_name]
        regex: http
      - source_labels: [__meta_kubernetes_pod_node_name]
        target_label: node
    metric_relabel_configs:
      - action: keep
        source_labels: [__name__]
        regex: {{ $keep.nodeExporter | join "|" }}
  - job_name: kube-state-metrics
    # Its labels name the objects it speaks of, not itself.
    honor_labels: true
    static_configs:
      - targets: [nops-kube-state-metrics.{{ .Release.Namespace }}.svc:8080]
    metric_relabel_configs:
      - action: keep
        source_labels: [__name__]
        regex: {{ $keep.kubeStateMetrics.metrics | join "|" }}
  - job_name: vmagent
    scrape_interval: {{ $interval | default "15s" }}
    static_configs:
      - targets: [127.0.0.1:8429]
    metric_relabel_configs:
      - action: keep
        source_labels: [__name__]
        regex: {{ $keep.vmagent | join "|" }}
{{- end -}}

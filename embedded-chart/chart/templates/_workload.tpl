{{/*
What workloads have in common. Every template here takes one dictionary:
  root         the chart's root
  component    its name in files/images.yaml; the object is called nops-<component> unless name says otherwise
  kind         of the workload: Deployment, DaemonSet
  labels       of the component; version, its image's tag
  settings     values of the component, a list: later ones win (nodeSelector, tolerations, affinity, priorityClassName)
*/}}

{{/* Metadata of an object, without annotations. Not for objects of the whole cluster. */}}
{{- define "nops.metadata" -}}
name: {{ include "nops.name" . }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "nops.labels" . | nindent 2 }}
{{- end -}}

{{/* Metadata of an object of the whole cluster. */}}
{{- define "nops.clusterMetadata" -}}
name: {{ include "nops.name" . }}
labels:
  {{- include "nops.labels" . | nindent 2 }}
{{- end -}}

{{/* A service account, with accountAnnotations. Tokens are mounted by the pods that use them. */}}
{{- define "nops.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "nops.metadata" . | nindent 2 }}
  {{- include "nops.ownAnnotations" .accountAnnotations | indent 2 }}
automountServiceAccountToken: false
{{- end -}}

{{/* The binding of role nops-… to service account nops-…, for the namespace, or with scope "Cluster" for all of it. */}}
{{- define "nops.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .scope }}RoleBinding
metadata:
  {{- include (ternary "nops.clusterMetadata" "nops.metadata" (eq .scope "Cluster")) . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .scope }}Role
  name: {{ include "nops.name" . }}
subjects:
  - kind: ServiceAccount
    name: {{ .account | default (include "nops.name" .) }}
    namespace: {{ .root.Release.Namespace | quote }}
{{- end -}}

{{/* The head of a pod that runs as nobody; token says whether it speaks to the API server. */}}
{{- define "nops.podSpec" -}}
serviceAccountName: {{ .account | default (include "nops.name" .) }}
automountServiceAccountToken: {{ .token }}
{{- include "nops.pullSecrets" .root }}
securityContext:
  {{- include "nops.podSecurity" .root | nindent 2 }}
{{ include "nops.scheduling" . }}
{{- end -}}

{{/* What our own agents are told, whichever they are. */}}
{{- define "nops.agentEnv" -}}
- name: NOPS_API_KEY
  valueFrom:
    secretKeyRef:
      {{- include "nops.secretKeyRef" (dict "root" . "what" "api") | nindent 6 }}
- name: NOPS_HOST
  value: {{ .Values.nops.host | quote }}
- name: NOPS_CLUSTER_ARN
  value: {{ include "nops.arn" . | quote }}
{{ include "nops.processEnv" . }}
{{- end -}}

{{/* For agents that do not speak to the platform: no key. */}}
{{- define "nops.processEnv" -}}
- name: NOPS_RELEASE
  value: {{ .Release.Name | quote }}
- name: NOPS_CHART_VERSION
  value: {{ .Chart.Version | quote }}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- include "nops.proxyEnv" . }}
{{- if .Values.nops.global.caBundle }}
- name: NOPS_CA_BUNDLE
  value: /etc/nops-ca/ca.crt
{{- end }}
{{- end -}}

{{- define "nops.proxyEnv" -}}
{{- with .Values.nops.global.proxy.url }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
- name: HTTP_PROXY
  value: {{ . | quote }}
- name: NO_PROXY
  value: {{ include "nops.noProxy" $ | quote }}
{{- end }}
{{- end -}}

{{/* For programs of others: the bundle besides the system's certificates. A flag would be instead of them. */}}
{{- define "nops.certificates" -}}
{{- if .Values.nops.global.caBundle }}
- name: SSL_CERT_DIR
  value: /etc/ssl/certs:/etc/nops-ca
{{- end }}
{{- end -}}

{{- define "nops.caMount" -}}
{{- if .Values.nops.global.caBundle }}
- name: ca-bundle
  mountPath: /etc/nops-ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "nops.caVolume" -}}
{{- if .Values.nops.global.caBundle }}
- name: ca-bundle
  configMap:
    name: nops-ca-bundle
{{- end }}
{{- end -}}

{{/*
The pod of one of our agents. Besides the above: image, args, resources, token; env, volumes and mounts, the names of templates that
give more of them; ports, more ports; daemon, whether it listens for probes (a CronJob's pod does not).
*/}}
{{- define "nops.agentPod" -}}
{{ include "nops.podSpec" . }}
containers:
  - name: {{ .component }}
    {{- include "nops.image" (dict "root" .root "component" (.imageOf | default .component) "image" .image) | nindent 4 }}
    args: {{ .args | toJson }}
    env:
      {{- include (ternary "nops.processEnv" "nops.agentEnv" (default false .keyless)) .root | nindent 6 }}
      {{- with .env }}
      {{- include . $.root | nindent 6 }}
      {{- end }}
    {{- if .daemon }}
    ports:
      - name: http
        containerPort: 8080
      {{- with .ports }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    livenessProbe:
      httpGet: {path: /healthz, port: http}
      periodSeconds: 20
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      periodSeconds: 5
    {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- include "nops.containerSecurity" .root | nindent 6 }}
    {{- $mounts := include "nops.caMount" .root }}{{ with .mounts }}{{ $mounts = printf "%s\n%s" $mounts (include . $.root) }}{{ end }}
    {{- with trim $mounts }}
    volumeMounts:
      {{- . | nindent 6 }}
    {{- end }}
{{- $volumes := include "nops.caVolume" .root }}{{ with .volumes }}{{ $volumes = printf "%s\n%s" $volumes (include . $.root) }}{{ end }}
{{- with trim $volumes }}
volumes:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Labels of a CronJob's pods. Nothing selects them but policies. */}}
{{- define "nops.cronLabels" -}}
{{- toYaml (mergeOverwrite (omit (include "nops.labels" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/managed-by") (include "nops.select" . | fromYaml)) -}}
{{- end -}}

{{/*
The strategy of what must not run twice. Where the workload is there already with a rolling one, it stays rolling, the old pod
first: the API server refuses Recreate together with what a rolling one brought, and server-side apply (Helm 4) cannot take away
what it did not write.
*/}}
{{- define "nops.recreate" -}}
strategy:
  {{- if dig "spec" "strategy" "rollingUpdate" false (lookup "apps/v1" .kind .root.Release.Namespace (include "nops.name" .)) }}
  type: RollingUpdate
  rollingUpdate:
    maxSurge: 0
    maxUnavailable: 1
  {{- else }}
  type: Recreate
  {{- end }}
{{- end -}}

{{/*
A Deployment of one of our agents. Besides the above: replicas, deploymentAnnotations, podAnnotations; rolling, for those that may
run twice for a while.
*/}}
{{- define "nops.agentDeployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "nops.metadata" . | nindent 2 }}
  {{- include "nops.annotations" (dict "root" .root "annotations" .deploymentAnnotations) | indent 2 }}
spec:
  replicas: {{ .replicas }}
  revisionHistoryLimit: 3
  {{- if or .rolling (gt (int .replicas) 1) }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: {{ ternary 1 0 (gt (int .replicas) 1) }}
  {{- else }}
  # Two would do everything twice.
  {{- include "nops.recreate" . | nindent 2 }}
  {{- end }}
  selector:
    {{- include "nops.selector" . | nindent 4 }}
  template:
    metadata:
      labels:
        {{- include "nops.podLabels" . | nindent 8 }}
      {{- include "nops.annotations" (dict "root" .root "annotations" .podAnnotations "ours" (include "nops.restarts" .root | fromYaml)) | indent 6 }}
    spec:
      {{- include "nops.agentPod" . | nindent 6 }}
      {{- if gt (int .replicas) 1 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "nops.select" . | nindent 14 }}
      {{- end }}
{{- if gt (int .replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "nops.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "nops.select" . | nindent 6 }}
{{- end }}
{{- end -}}

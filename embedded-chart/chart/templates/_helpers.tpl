{{/* Name of a component's objects. */}}
{{- define "nops.name" -}}nops-{{ .component }}{{- end -}}

{{/* Labels that select pods: they never change. */}}
{{- define "nops.selector" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of every object: the global ones, the component's own over them, ours over both. */}}
{{- define "nops.labels" -}}
{{- $own := include "nops.selector" . | fromYaml -}}
{{- $ours := dict "app.kubernetes.io/part-of" "nops-kubernetes-agent" "app.kubernetes.io/managed-by" .root.Release.Service "app.kubernetes.io/version" (.version | default .root.Chart.AppVersion) "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version) -}}
{{- toYaml (mergeOverwrite (dict) .root.Values.nops.global.labels (.labels | default dict) $ours $own) -}}
{{- end -}}

{{/* Labels of pods: as above without those that would restart pods at every chart version. */}}
{{- define "nops.podLabels" -}}
{{- toYaml (omit (include "nops.labels" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/managed-by") -}}
{{- end -}}

{{/* Annotations: the global ones, the component's own over them. Nothing when there are none. */}}
{{- define "nops.annotations" -}}
{{- $all := mergeOverwrite (dict) .root.Values.nops.global.annotations (.annotations | default dict) (.ours | default dict) -}}
{{- if $all }}
annotations:
  {{- toYaml $all | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* What is tolerated: the component's and the global ones, each once. */}}
{{- define "nops.tolerations" -}}
{{- $all := uniq (concat (.own | default list) .root.Values.nops.global.tolerations) -}}
{{- if $all }}
tolerations:
  {{- toYaml $all | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Where pods may run: selector and affinity, the component's keys over the global ones. */}}
{{- define "nops.scheduling" -}}
{{- $selector := mergeOverwrite (dict) .root.Values.nops.global.nodeSelector (.nodeSelector | default dict) -}}
{{- $affinity := mergeOverwrite (dict) .root.Values.nops.global.affinity (.affinity | default dict) -}}
{{- if $selector }}
nodeSelector:
  {{- toYaml $selector | nindent 2 }}
{{- end }}
{{- if $affinity }}
affinity:
  {{- toYaml $affinity | nindent 2 }}
{{- end }}
{{- include "nops.tolerations" (dict "root" .root "own" .tolerations) }}
{{- end -}}

{{/* An image reference. A digest wins over the tag. */}}
{{- define "nops.image" -}}
{{- $repository := .image.repository -}}
{{- if .image.registry }}{{ $repository = printf "%s/%s" .image.registry .image.repository }}{{ end -}}
{{- if .root.Values.nops.global.imageRegistry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .root.Values.nops.global.imageRegistry) (regexReplaceAll "^[^/]+/" $repository "") }}{{ end -}}
{{- if .image.digest }}{{ $repository }}@{{ .image.digest }}{{ else }}{{ $repository }}:{{ .image.tag }}{{ end -}}
{{- end -}}

{{- define "nops.pullSecrets" -}}
{{- with .Values.nops.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "nops.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65534
runAsGroup: 65534
fsGroup: 65534
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "nops.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "nops.arn" -}}{{ .Values.containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN }}{{- end -}}

{{/* Whether vmagent gets its identity from a role on its service account. */}}
{{- define "nops.role" -}}
{{- $a := mergeOverwrite (dict) .Values.containerInsights.serviceAccount.annotations .Values.victoriaMetrics.serviceAccount.annotations -}}
{{- index $a "eks.amazonaws.com/role-arn" | default "" -}}
{{- end -}}

{{/* Secret and key of a credential, as YAML: what is "api", "ampAccess" or "ampSecret". */}}
{{- define "nops.secretKeyRef" -}}
{{- $v := .root.Values -}}
{{- $inline := dict "api" "API_KEY" "ampAccess" "AMP_ACCESS_KEY" "ampSecret" "AMP_SECRET_KEY" -}}
{{- if $v.customerManagedSecrets.enabled -}}
{{- $name := dict "api" $v.customerManagedSecrets.apiSecretName "ampAccess" $v.customerManagedSecrets.ampAccessName "ampSecret" $v.customerManagedSecrets.ampSecretName -}}
{{- $key := dict "api" $v.customerManagedSecrets.apiSecretKey "ampAccess" $v.customerManagedSecrets.ampAccessKey "ampSecret" $v.customerManagedSecrets.ampSecretKey -}}
name: {{ get $name .what }}
key: {{ get $key .what }}
{{- else -}}
name: nops-inline-credentials
key: {{ get $inline .what }}
{{- end -}}
{{- end -}}

{{/* Restarts pods when credentials change: vmagent never reads static keys again. */}}
{{- define "nops.credentialsAnnotation" -}}
{{- if .Values.nops.credentialsRevision }}{{ .Values.nops.credentialsRevision }}{{ else }}{{ printf "%s/%s/%s" .Values.nops.apiKey .Values.containerInsights.ampAccessKey .Values.containerInsights.ampSecretKey | sha256sum | trunc 16 }}{{ end -}}
{{- end -}}

{{- define "nops.remoteWriteURL" -}}
{{- if .Values.containerInsights.remoteWriteUrl }}{{ .Values.containerInsights.remoteWriteUrl }}{{ else }}https://aps-workspaces.{{ .Values.containerInsights.ampRegion }}.amazonaws.com/workspaces/{{ .Values.containerInsights.ampID }}/api/v1/remote_write{{ end -}}
{{- end -}}

{{/* Components that are switched on but whose agent is not part of this release. */}}
{{- define "nops.unavailable" -}}
{{- $images := (.Files.Get "files/images.yaml" | fromYaml).components -}}
{{- $names := list -}}
{{- range $component, $i := $images }}{{ if not $i.available }}{{ $names = append $names $i.toggle }}{{ end }}{{ end -}}
{{- $names | sortAlpha | join "," -}}
{{- end -}}

{{/* A value as a string: --set gives integers and booleans, values files give floats, Kubernetes wants strings. */}}
{{- define "nops.string" -}}
{{- if kindIs "float64" . }}{{ if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}{{ else if not (kindIs "invalid" .) }}{{ . }}{{ end -}}
{{- end -}}

{{/* A map with every value as a string, as YAML. */}}
{{- define "nops.strings" -}}
{{- $out := dict -}}
{{- range $key, $value := . }}{{ $_ := set $out $key (include "nops.string" $value) }}{{ end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* Labels that select pods: they never change. */}}
{{- define "nops.selector" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of every object: the global ones, the component's own over them, ours over both. */}}
{{- define "nops.labels" -}}
{{- $own := include "nops.selector" . | fromYaml -}}
{{- $version := include "nops.string" (.version | default .root.Chart.AppVersion) | trunc 63 | regexFind "[A-Za-z0-9](.*[A-Za-z0-9])?" -}}
{{- $ours := dict "app.kubernetes.io/part-of" "nops-kubernetes-agent" "app.kubernetes.io/managed-by" .root.Release.Service "app.kubernetes.io/version" $version "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version) -}}
{{- include "nops.strings" (mergeOverwrite (dict) (deepCopy .root.Values.nops.global.labels) (deepCopy (.labels | default dict)) $ours $own) -}}
{{- end -}}

{{/* Labels of pods: as above without those that would restart pods at every chart version. */}}
{{- define "nops.podLabels" -}}
{{- toYaml (omit (include "nops.labels" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/managed-by") -}}
{{- end -}}

{{/* Annotations of workloads, pods and services: the global ones, the component's own over them. Nothing when there are none. */}}
{{- define "nops.annotations" -}}
{{- include "nops.ownAnnotations" (mergeOverwrite (dict) (deepCopy .root.Values.nops.global.annotations) (deepCopy (.annotations | default dict)) (.ours | default dict)) -}}
{{- end -}}

{{/* Annotations of what the global ones do not reach, such as service accounts. */}}
{{- define "nops.ownAnnotations" -}}
{{- if . }}
annotations:
  {{- include "nops.strings" . | nindent 2 }}
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

{{/* Where pods may run: the component's keys over the global ones. The images are Linux's, so mixed clusters need to be told. */}}
{{- define "nops.scheduling" -}}
{{- $selector := mergeOverwrite (dict "kubernetes.io/os" "linux") (deepCopy .root.Values.nops.global.nodeSelector) (deepCopy (.nodeSelector | default dict)) -}}
{{- $affinity := mergeOverwrite (dict) (deepCopy .root.Values.nops.global.affinity) (deepCopy (.affinity | default dict)) -}}
nodeSelector:
  {{- include "nops.strings" $selector | nindent 2 }}
{{- if $affinity }}
affinity:
  {{- toYaml $affinity | nindent 2 }}
{{- end }}
{{- include "nops.tolerations" (dict "root" .root "own" .tolerations) }}
{{- end -}}

{{/*
The image of a component, as the fields of a container. A digest wins over the tag, but a tag that is not the listed one
clears the listed digest: who asks for another version must get it.
*/}}
{{- define "nops.image" -}}
{{- $listed := get (.root.Files.Get "files/images.yaml" | fromYaml).components .component -}}
{{- $repository := .image.repository -}}
{{- if .image.registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .image.registry) .image.repository }}{{ end -}}
{{- with .root.Values.nops.global.imageRegistry -}}
{{- /* A first part without a dot, a colon or the name localhost is no registry but a part of the path. */ -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- $tag := include "nops.string" .image.tag -}}
{{- $digest := .image.digest -}}
{{- if and (eq $digest $listed.digest) (ne $tag $listed.tag) }}{{ $digest = "" }}{{ end -}}
image: {{ ternary (printf "%s@%s" $repository $digest) (printf "%s:%s" $repository $tag) (ne $digest "") | quote }}
{{- with .image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end -}}
{{- end -}}

{{- define "nops.pullSecrets" -}}
{{- with .Values.nops.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "map" . }}{{ .name | quote }}{{ else }}{{ . | quote }}{{ end }}
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

{{/* Annotations of vmagent's service account. */}}
{{- define "nops.vmagentAccount" -}}
{{- include "nops.strings" (mergeOverwrite (dict) (deepCopy .Values.containerInsights.serviceAccount.annotations) (deepCopy .Values.victoriaMetrics.serviceAccount.annotations)) -}}
{{- end -}}

{{/* The role vmagent gets its identity from (IRSA); empty: static keys. */}}
{{- define "nops.role" -}}
{{- get (include "nops.vmagentAccount" . | fromYaml) "eks.amazonaws.com/role-arn" -}}
{{- end -}}

{{/* Secret and key of a credential, as YAML: what is "api", "ampAccess" or "ampSecret". */}}
{{- define "nops.secretKeyRef" -}}
{{- $refs := .root.Values.customerManagedSecrets -}}
{{- if $refs.enabled -}}
name: {{ get $refs (printf "%sName" (ternary "apiSecret" .what (eq .what "api"))) | quote }}
key: {{ get $refs (printf "%sKey" (ternary "apiSecret" .what (eq .what "api"))) | quote }}
{{- else -}}
name: nops-inline-credentials
key: {{ get (dict "api" "API_KEY" "ampAccess" "AMP_ACCESS_KEY" "ampSecret" "AMP_SECRET_KEY") .what }}
{{- end -}}
{{- end -}}

{{/*
Annotations that restart pods when credentials change: vmagent never reads static keys again. Of Secrets that are not ours the
chart knows nothing; there nops.credentialsRevision says it.
*/}}
{{- define "nops.credentialsRevision" -}}
{{- $revision := .Values.nops.credentialsRevision -}}
{{- if and (not $revision) (not .Values.customerManagedSecrets.enabled) -}}
{{- $revision = printf "%s/%s/%s" .Values.nops.apiKey .Values.containerInsights.ampAccessKey .Values.containerInsights.ampSecretKey | sha256sum | trunc 16 -}}
{{- end -}}
{{- if $revision }}nops.io/credentials-revision: {{ $revision | quote }}{{ end -}}
{{- end -}}

{{- define "nops.remoteWriteURL" -}}
{{- .Values.containerInsights.remoteWriteUrl | default (printf "https://aps-workspaces.%s.amazonaws.com/workspaces/%s/api/v1/remote_write" .Values.containerInsights.ampRegion .Values.containerInsights.ampID) -}}
{{- end -}}

{{/* The toggles whose agent is not part of this release. */}}
{{- define "nops.unavailable" -}}
{{- $names := list -}}
{{- range $component, $image := (.Files.Get "files/images.yaml" | fromYaml).components }}{{ if not $image.available }}{{ $names = append $names $image.toggle }}{{ end }}{{ end -}}
{{- $names | sortAlpha | join ", " -}}
{{- end -}}

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

{{/* Labels by which an object is told whose it is. */}}
{{- define "nops.identity" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The label by which Services, policies and the scrape configuration find pods: nobody else's, so it is there whatever selects the pods. */}}
{{- define "nops.select" -}}
nops.io/component: {{ .component }}
{{- end -}}

{{- define "nops.name" -}}{{ .name | default (printf "nops-%s" .component) }}{{- end -}}

{{/*
The selector of a workload. It can never be changed: where one of that name is there already, made by another chart, its selector
stays, and the pods get its labels. Otherwise no release of that chart could be upgraded.
*/}}
{{- define "nops.selector" -}}
{{- $ours := dict "matchLabels" (include "nops.identity" . | fromYaml) -}}
{{- toYaml (dig "spec" "selector" $ours (lookup "apps/v1" .kind .root.Release.Namespace (include "nops.name" .))) -}}
{{- end -}}

{{/* Labels of every object: the global ones, the component's own over them, ours over both. */}}
{{- define "nops.labels" -}}
{{- $own := include "nops.identity" . | fromYaml -}}
{{- $version := regexReplaceAll "[^A-Za-z0-9._-]" (include "nops.string" (.version | default .root.Chart.AppVersion)) "_" | trunc 63 | regexFind "[A-Za-z0-9](.*[A-Za-z0-9])?" -}}
{{- $ours := dict "app.kubernetes.io/part-of" "nops-kubernetes-agent" "app.kubernetes.io/managed-by" .root.Release.Service "app.kubernetes.io/version" $version "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63) -}}
{{- include "nops.strings" (mergeOverwrite (dict) (deepCopy (.root.Values.nops.global.labels | default dict)) (deepCopy (.labels | default dict)) $ours $own) -}}
{{- end -}}

{{/* Labels of pods: as above without those that would restart pods at every chart version, and with those that select them. */}}
{{- define "nops.podLabels" -}}
{{- $selector := include "nops.selector" . | fromYaml -}}
{{- toYaml (mergeOverwrite (omit (include "nops.labels" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/managed-by") (include "nops.select" . | fromYaml) ($selector.matchLabels | default dict)) -}}
{{- end -}}

{{/* Annotations of workloads, pods and services: the global ones, the component's own over them. Nothing when there are none. */}}
{{- define "nops.annotations" -}}
{{- include "nops.ownAnnotations" (mergeOverwrite (dict) (deepCopy (.root.Values.nops.global.annotations | default dict)) (deepCopy (.annotations | default dict)) (.ours | default dict)) -}}
{{- end -}}

{{/* Annotations of what the global ones do not reach, such as service accounts. */}}
{{- define "nops.ownAnnotations" -}}
{{- if . }}
annotations:
  {{- include "nops.strings" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* What is tolerated: that of the components' settings and the global ones, each once. */}}
{{- define "nops.tolerations" -}}
{{- $all := list -}}
{{- range .settings }}{{ $all = concat $all (.tolerations | default list) }}{{ end -}}
{{- $all = uniq (concat $all (.root.Values.nops.global.tolerations | default list)) -}}
{{- if $all }}
tolerations:
  {{- toYaml $all | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* The global priority class, or the component's own. */}}
{{- define "nops.priority" -}}
{{- $class := .root.Values.nops.global.priorityClassName -}}
{{- range .settings }}{{ $class = .priorityClassName | default $class }}{{ end -}}
{{- with $class }}
priorityClassName: {{ . | quote }}
{{- end -}}
{{- end -}}

{{/*
Where pods may run: the keys of the components' settings, later ones winning, over the global ones, and those over base. The
images are Linux's, so mixed clusters need to be told.
*/}}
{{- define "nops.scheduling" -}}
{{- $selector := mergeOverwrite (dict "kubernetes.io/os" "linux") (deepCopy (.root.Values.nops.global.nodeSelector | default dict)) -}}
{{- $affinity := mergeOverwrite (deepCopy (.base | default dict)) (deepCopy (.root.Values.nops.global.affinity | default dict)) -}}
{{- range .settings -}}
{{- $selector = mergeOverwrite $selector (deepCopy (.nodeSelector | default dict)) -}}
{{- $affinity = mergeOverwrite $affinity (deepCopy (.affinity | default dict)) -}}
{{- end -}}
nodeSelector:
  {{- include "nops.strings" $selector | nindent 2 }}
{{- if $affinity }}
affinity:
  {{- toYaml $affinity | nindent 2 }}
{{- end }}
{{- include "nops.priority" . }}
{{- include "nops.tolerations" . }}
{{- end -}}

{{/*
The image of a component, as the fields of a container. A digest wins over the tag, but a tag that is not the listed one
clears the listed digest: who asks for another version must get it.
*/}}
{{- define "nops.image" -}}
{{- if not .image.repository }}{{ fail (printf "The image of %s has no repository. Leave it out of the values to get ours." .component) }}{{ end -}}
{{- $repository := .image.repository -}}
{{- if and .image.registry (not (regexMatch "^([^/]*[.:][^/]*|localhost)/" .image.repository)) }}{{ $repository = printf "%s/%s" (trimSuffix "/" .image.registry) .image.repository }}{{ end -}}
{{- with .root.Values.nops.global.imageRegistry -}}
{{- /* A first part without a dot, a colon or the name localhost is no registry but a part of the path. */ -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- $tag := include "nops.string" .image.tag -}}
{{- $digest := .image.digest -}}
{{- if $digest -}}
{{- $listed := get (.root.Files.Get "files/images.yaml" | fromYaml).components .component -}}
{{- if and (eq $digest $listed.digest) (ne $tag $listed.tag) }}{{ $digest = "" }}{{ end -}}
{{- end -}}
image: {{ ternary (printf "%s@%s" $repository $digest) (printf "%s:%s" $repository $tag) (not (empty $digest)) | quote }}
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

{{/* Annotations of the service account nops-container-insights. */}}
{{- define "nops.insightsAccount" -}}
{{- include "nops.strings" (mergeOverwrite (dict) (deepCopy (.Values.containerInsights.serviceAccount.annotations | default dict)) (deepCopy (.Values.victoriaMetrics.serviceAccount.annotations | default dict))) -}}
{{- end -}}

{{/* Whether it has a role (IRSA or Pod Identity); empty: static keys. */}}
{{- define "nops.role" -}}
{{- if or .Values.containerInsights.podIdentity.enabled (get (include "nops.insightsAccount" . | fromYaml) "eks.amazonaws.com/role-arn") }}true{{ end -}}
{{- end -}}

{{/* The API key among the values; karpenops.apiKey is where it was until 2024. */}}
{{- define "nops.apiKey" -}}{{ .Values.nops.apiKey | default .Values.karpenops.apiKey }}{{- end -}}

{{/* Where a credential comes from: "customer", "external" or "inline". what is "api", "ampAccess", "ampSecret" or "datadog". */}}
{{- define "nops.source" -}}
{{- $v := .root.Values -}}
{{- if $v.customerManagedSecrets.enabled }}customer
{{- else if and $v.externalSecrets.enabled (or (has .what (list "api" "datadog")) $v.externalSecrets.data.ampKeys.remoteRef.key) }}external
{{- else }}inline{{ end -}}
{{- end -}}

{{/* Secret and key of a credential, as YAML. */}}
{{- define "nops.secretKeyRef" -}}
{{- $source := include "nops.source" . -}}
{{- if eq $source "customer" -}}
{{- $prefix := get (dict "api" "apiSecret" "ampAccess" "ampAccess" "ampSecret" "ampSecret" "datadog" "ddSecret") .what -}}
name: {{ get .root.Values.customerManagedSecrets (printf "%sName" $prefix) | quote }}
key: {{ get .root.Values.customerManagedSecrets (printf "%sKey" $prefix) | quote }}
{{- else if eq $source "external" -}}
name: nops-api-keys
key: {{ get (dict "api" "NOPS_API_KEY" "ampAccess" "AMP_ACCESS_KEY" "ampSecret" "AMP_SECRET_KEY" "datadog" "DD_API_KEY") .what }}
{{- else -}}
name: nops-inline-credentials
key: {{ get (dict "api" "API_KEY" "ampAccess" "AMP_ACCESS_KEY" "ampSecret" "AMP_SECRET_KEY" "datadog" "DD_KEY") .what }}
{{- end -}}
{{- end -}}

{{/* What goes into the Secret of inline credentials: those that are used and come from the values. As YAML, base64. */}}
{{- define "nops.inlineCredentials" -}}
{{- $v := .Values -}}
{{- $used := dict "api" (list "API_KEY" (include "nops.apiKey" .)) -}}
{{- if include "nops.on" (dict "root" . "component" "vmagent") -}}
{{- $_ := set $used "ampAccess" (list "AMP_ACCESS_KEY" $v.containerInsights.ampAccessKey) -}}
{{- $_ := set $used "ampSecret" (list "AMP_SECRET_KEY" $v.containerInsights.ampSecretKey) -}}
{{- end -}}
{{- if include "nops.on" (dict "root" . "component" "datadog") -}}
{{- $_ := set $used "datadog" (list "DD_KEY" $v.datadog.apiKey) -}}
{{- end -}}
{{- range $what, $it := $used -}}
{{- if and (index $it 1) (eq (include "nops.source" (dict "root" $ "what" $what)) "inline") }}
{{ index $it 0 }}: {{ index $it 1 | b64enc }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Annotations that restart pods when credentials change: nobody reads a variable again. Of Secrets that are not ours the chart
knows nothing; there nops.credentialsRevision says it.
*/}}
{{- define "nops.credentialsRevision" -}}
{{- $revision := .Values.nops.credentialsRevision -}}
{{- with include "nops.inlineCredentials" . }}{{ $revision = $revision | default (sha256sum . | trunc 16) }}{{ end -}}
{{- if $revision }}nops.io/credentials-revision: {{ $revision | quote }}{{ end -}}
{{- end -}}

{{/* Annotations that restart pods for what they read once, at their start: credentials and certificates. As YAML. */}}
{{- define "nops.restarts" -}}
{{ include "nops.credentialsRevision" . }}
{{- with .Values.nops.global.caBundle }}
nops.io/ca-bundle: {{ sha256sum . | trunc 16 | quote }}
{{- end }}
{{- end -}}

{{- define "nops.remoteWriteURL" -}}
{{- $domain := ternary "amazonaws.com.cn" "amazonaws.com" (hasPrefix "cn-" (.Values.containerInsights.ampRegion | default "")) -}}
{{- .Values.containerInsights.remoteWriteUrl | default (printf "https://aps-workspaces.%s.%s/workspaces/%s/api/v1/remote_write" .Values.containerInsights.ampRegion $domain .Values.containerInsights.ampID) -}}
{{- end -}}

{{/* Whether the values ask for a component, part of this release or not. */}}
{{- define "nops.wanted" -}}
{{- $v := .root.Values -}}
{{- $insights := $v.containerInsights.enabled -}}
{{- $central := and $insights $v.containerInsights.centralized -}}
{{- $server := and $insights (not $v.containerInsights.centralized) -}}
{{- /* The right spelling wins over the published misspelling, where it is given at all. */ -}}
{{- $updater := true -}}
{{- if kindIs "bool" $v.autoUpdater.enabled }}{{ $updater = $v.autoUpdater.enabled }}
{{- else if hasKey $v "autoUpater" }}{{ if kindIs "bool" $v.autoUpater.enabled }}{{ $updater = $v.autoUpater.enabled }}{{ end }}{{ end -}}
{{- $wanted := dict
  "heartbeat" $v.heartbeat.enabled
  "vmagent" $central
  "node-exporter" $insights
  "kube-state-metrics" $insights
  "dcgm-exporter" (and $insights $v.dcgmExporter.enabled)
  "prometheus-server" $server
  "config-reloader" $server
  "opencost" $server
  "container-insights-agent" $server
  "karpenops" $v.karpenops.enabled
  "vpa" $v.containerRightsizing.enabled
  "data-fetcher" $v.dataFetcher.enabled
  "image-tag-updater" $updater
  "datadog" $v.datadog.enabled -}}
{{- if get $wanted .component }}true{{ end -}}
{{- end -}}

{{/* Whether a component is part of this release. Asked so often that the list is not parsed for it: `available` comes first there. */}}
{{- define "nops.available" -}}
{{- if regexMatch (printf "(?m)^  %s:\n    available: true$" .component) (.root.Files.Get "files/images.yaml") }}true{{ end -}}
{{- end -}}

{{/* Whether a component is rendered. */}}
{{- define "nops.on" -}}
{{- if and (include "nops.wanted" .) (include "nops.available" .) }}true{{ end -}}
{{- end -}}

{{/* What is not asked through the proxy: this machine, the API server, the cluster's names, AWS's credential endpoints, and the user's. */}}
{{- define "nops.noProxy" -}}
localhost,127.0.0.1,::1,$(KUBERNETES_SERVICE_HOST),.svc,.cluster.local,169.254.169.254,169.254.170.23,fd00:ec2::254,fd00:ec2::23
{{- with .Values.nops.global.proxy.noProxy }},{{ . }}{{ end -}}
{{- end -}}

{{/* A size in MiB, roughly: thousands count as 1024. */}}
{{- define "nops.mib" -}}
{{- $unit := regexFind "[A-Za-z]*$" . | trimSuffix "B" | trimSuffix "i" | upper -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get (dict "" 0.00000095 "K" 0.00098 "M" 1.0 "G" 1024.0 "T" 1048576.0 "P" 1073741824.0 "E" 1099511627776.0) $unit) -}}
{{- end -}}

{{/* A resource of the API as kube-state-metrics names it: deployments is deployment. */}}
{{- define "nops.singular" -}}{{ trimSuffix "s" . }}{{- end -}}

{{/* The metrics of kube-state-metrics that are kept: the listed ones, and those that carry the labels and annotations asked for. As JSON. */}}
{{- define "nops.kubeStateMetrics" -}}
{{- $c := .Values.prometheus.kubeStateMetrics -}}
{{- $names := (.Files.Get "files/keep-list.yaml" | fromYaml).kubeStateMetrics.metrics -}}
{{- range $suffix, $asked := dict "labels" $c.metricLabels "annotations" $c.metricAnnotations -}}
{{- range $resource := keys ($asked | default dict) | sortAlpha }}{{ $names = append $names (printf "kube_%s_%s" (include "nops.singular" $resource) $suffix) }}{{ end -}}
{{- end -}}
{{- $names | uniq | toJson -}}
{{- end -}}

{{/*
What the templates take for granted. Values of another chart (--reuse-values) and sections that were set to null lack some of it;
Helm would say so in words about templates.
*/}}
{{- define "nops.complete" -}}
{{- range $path := list
  "nops.global.proxy" "nops.global.networkPolicy" "customerManagedSecrets" "externalSecrets.secretStoreRef" "externalSecrets.data.apiKeys.remoteRef" "externalSecrets.data.ampKeys.remoteRef"
  "containerInsights.env_variables" "containerInsights.serviceAccount" "containerInsights.podIdentity" "victoriaMetrics.image" "victoriaMetrics.serviceAccount" "victoriaMetrics.scrapeIntervals"
  "prometheus.kubeStateMetrics.image" "prometheus.kubeStateMetrics.service" "prometheus.nodeExporter.image" "prometheus.nodeExporter.service" "prometheus.server.image" "prometheus.server.persistentVolume"
  "prometheus.configmapReload.prometheus.image" "prometheus.deleteLogFile" "opencost.opencost.exporter.image" "dcgmExporter.image" "dcgmExporter.service" "heartbeat.image" "heartbeat.serviceAccount"
  "karpenops.image" "karpenops.pace" "karpenops.serviceAccount" "containerRightsizing.image" "containerRightsizing.serviceAccount" "containerRightsizing.recommender" "containerRightsizing.recommender.store" "containerRightsizing.updater" "containerRightsizing.policy" "containerRightsizing.admissionController"
  "dataFetcher.image" "dataFetcher.serviceAccount" "autoUpdater.image" "autoUpdater.serviceAccount" "datadog" -}}
{{- $at := $.Values -}}
{{- range $key := splitList "." $path -}}
{{- $at = get $at $key -}}
{{- if not (kindIs "map" $at) }}{{ fail (printf "The values have no section %s (%s). Where they come from a release of another chart, give --reset-then-reuse-values instead of --reuse-values; where it was set to null, leave it out." $path $key) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

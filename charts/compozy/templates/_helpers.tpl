{{- /* Everything is called <release>-<component>. */ -}}
{{- define "compozy.name" -}}
{{- printf "%s-%s" (.root.Release.Name | trunc 40 | trimSuffix "-") .component }}
{{- end }}

{{- define "compozy.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Of a pod: nothing that would restart it with every new chart. */ -}}
{{- define "compozy.podLabels" -}}
{{ include "compozy.selectorLabels" . }}
app.kubernetes.io/part-of: compozy
{{- end }}

{{- define "compozy.labels" -}}
{{ include "compozy.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: compozy
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "compozy.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "compozy.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "compozy.name" (dict "root" . "component" "operator")) }}
{{- end }}

{{- /* A subject of bindings. */ -}}
{{- define "compozy.subject" -}}
{kind: ServiceAccount, name: {{ .name }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}

{{- /* Pod Security "restricted", for every pod of this chart. */ -}}
{{- define "compozy.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "compozy.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /*
Rights over workflows and what belongs to them: the rules `rules` for the component `component`,
in the whole cluster or, with watchNamespaces, in each of these. Without `subject` nobody has
them yet. `labels` and `hook` say what else stands at the role.
*/ -}}
{{- define "compozy.rights" -}}
{{- $given := . }}
{{- $name := include "compozy.name" . }}
{{- range $namespace := .root.Values.watchNamespaces | default (list "") }}
{{- $kind := empty $namespace | ternary "ClusterRole" "Role" }}
{{- $meta := empty $namespace | ternary "" (printf "namespace: %s" $namespace) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with $meta }}{{ . | nindent 2 }}{{ end }}
  labels:
    {{- include "compozy.labels" $given | nindent 4 }}
    {{- if empty $namespace }}{{ with $given.labels }}{{ . | nindent 4 }}{{ end }}{{ end }}
  {{- if $given.hook }}
  annotations: {{- include "compozy.uninstallHook" "-2" | nindent 4 }}
  {{- end }}
rules: {{- $given.rules | trim | nindent 2 }}
{{- if $given.subject }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with $meta }}{{ . | nindent 2 }}{{ end }}
  labels: {{- include "compozy.labels" $given | nindent 4 }}
  {{- if $given.hook }}
  annotations: {{- include "compozy.uninstallHook" "-1" | nindent 4 }}
  {{- end }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ $name }}}
subjects:
  - {{ $given.subject }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Where a pod may run and how its image is pulled: lines for its spec, or none. */ -}}
{{- define "compozy.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with index $.values $field }}
{{ $field }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "compozy.nats.url" -}}
{{- if .Values.nats.enabled -}}
{{ empty .Values.nats.tls.existingSecret | ternary "nats" "tls" }}://{{ include "compozy.name" (dict "root" . "component" "nats") }}.{{ .Release.Namespace }}.svc:4222
{{- else -}}
{{ .Values.nats.external.url }}
{{- end }}
{{- end }}

{{- /* The Secret of the bundled server's user `operator`. */ -}}
{{- define "compozy.nats.operatorSecret" -}}
{{ .Values.nats.credentials.operatorSecret | default (include "compozy.name" (dict "root" . "component" "nats-operator")) }}
{{- end }}

{{- /*
With what the operator meets NATS: a list of files, each a key of a Secret and the variable that
names it. Lines of YAML, or none.
*/ -}}
{{- define "compozy.nats.clientFiles" -}}
{{- $external := .Values.nats.external }}
{{- $holds := ternary "password" $external.secretHolds .Values.nats.enabled }}
{{- $secret := $external.existingSecret }}
{{- $ca := $external.tls.caSecret }}
{{- $client := $external.tls.clientSecret }}
{{- if .Values.nats.enabled }}
{{- $secret = include "compozy.nats.operatorSecret" . }}
{{- $ca = .Values.nats.tls.existingSecret }}
{{- $client = "" }}
{{- end }}
{{- if include "compozy.nats.url" . }}
{{- with $secret }}
{{- if eq $holds "password" }}
- {variable: USER, secret: {{ . }}, key: username}
- {variable: PASSWORD, secret: {{ . }}, key: password}
{{- else if eq $holds "creds" }}
- {variable: CREDS, secret: {{ . }}, key: nats.creds}
{{- else }}
- {variable: TOKEN, secret: {{ . }}, key: token}
{{- end }}
{{- end }}
{{- with $ca }}
- {variable: CA, secret: {{ . }}, key: ca.crt}
{{- end }}
{{- with $client }}
- {variable: CERT, secret: {{ . }}, key: tls.crt}
- {variable: KEY, secret: {{ . }}, key: tls.key}
{{- end }}
{{- if .Values.nats.enabled }}
- {variable: ISSUER_KEY, secret: {{ include "compozy.nats.issuerSecret" . }}, key: issuer.key}
{{- end }}
{{- end }}
{{- end }}

{{- define "compozy.nats.subscriberSecret" -}}
{{ .Values.nats.credentials.subscriberSecret | default (include "compozy.name" (dict "root" . "component" "nats-subscriber")) }}
{{- end }}

{{- define "compozy.nats.toolsSecret" -}}
{{ .Values.nats.credentials.toolsSecret | default (include "compozy.name" (dict "root" . "component" "nats-tools")) }}
{{- end }}

{{- /* The Secret of the key with which the operator signs whom it admits to the bundled server. */ -}}
{{- define "compozy.nats.issuerSecret" -}}
{{ .Values.nats.credentials.issuerSecret | default (include "compozy.name" (dict "root" . "component" "nats-issuer")) }}
{{- end }}

{{- /* As the operator names it. */ -}}
{{- define "compozy.nats.eventStream" -}}
{{ .Values.nats.prefix | replace "." "_" | upper }}_EVENTS
{{- end }}

{{- define "compozy.nats.poolStream" -}}
{{ .Values.nats.prefix | replace "." "_" | upper }}_POOLS
{{- end }}

{{- /* Annotations of what lives only while the release is uninstalled; takes its place in the order. */ -}}
{{- define "compozy.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ quote . }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* Names, labels and images. Objects are called <release>-heliograph-<component>, or <release>-<component> where the release's name says it. */}}

{{/* At most 37: a StatefulSet's name has room for 52 (pods get a label of it and a hash), and `-redis-metadata` follows. */}}
{{- define "heliograph.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 37 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 37 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* (dict "root" $ "component" "edge") → name of its objects */}}
{{- define "heliograph.name" -}}
{{- printf "%s-%s" (include "heliograph.fullname" .root) .component -}}
{{- end -}}

{{/* What selects a component's pods: never changes, a Deployment's selector can't. */}}
{{- define "heliograph.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "heliograph.labels" -}}
{{ include "heliograph.selector" . }}
app.kubernetes.io/part-of: heliograph
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* (dict "root" $ "component" "edge" "image" "") → the image's whole name */}}
{{- define "heliograph.image" -}}
{{- .image | default (printf "%s/%s:%s" .root.Values.image.registry .component (.root.Values.image.tag | default .root.Chart.AppVersion)) -}}
{{- end -}}

{{- define "heliograph.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

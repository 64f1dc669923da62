{{/* One Deployment for all components, so that what is true of one pod is true of all. */}}

{{/* (dict "root" $ "component" "edge") → `pods` of all and of this component, as YAML: maps added up, lists replaced */}}
{{- define "heliograph.pods" -}}
{{- $own := (index .root.Values .component).pods | default dict -}}
{{- toYaml (mergeOverwrite (deepCopy .root.Values.pods) (deepCopy $own)) -}}
{{- end -}}

{{/* Seconds from the wish to end a pod until it is killed: the one number that must fit all others, so it is computed. */}}
{{- define "heliograph.grace" -}}
{{- $stop := int (dig "stop_timeout_s" (dig "stop_timeout_s" 4 .root.Values.settings) (index .root.Values .component).settings) -}}
{{- with index .root.Values .component -}}
{{- add (int .preStopSeconds) (int .drain.timeoutSeconds) (mul 2 $stop) 5 -}}
{{- end -}}
{{- end -}}

{{/* What a component's container is told by the chart: as heliograph.deployment's arguments → a list, as YAML */}}
{{- define "heliograph.ownEnv" -}}
{{- $values := index .root.Values .component -}}
- { name: HELIOGRAPH_HOST, value: 0.0.0.0 }
- { name: HELIOGRAPH_PORT, value: {{ .port | quote }} }
- { name: HELIOGRAPH_DRAIN_TIMEOUT_S, value: {{ $values.drain.timeoutSeconds | toString | quote }} }
{{- with .env }}
{{ toYaml . }}
{{- end }}
{{- include "heliograph.secretEnv" .root }}
{{- range $name, $value := $values.settings }}
- { name: HELIOGRAPH_{{ upper $name }}, value: {{ include "heliograph.text" $value | quote }} }
{{- end }}
{{- end -}}

{{/*
(dict "given" extraEnv "own" "YAML") → what of `own` is not given by the user. A variable that is there twice is refused by
server-side apply. What is given stands before, so that `own` may refer to it: $(KAFKA_USERNAME).
*/}}
{{- define "heliograph.unlessGiven" -}}
{{- $names := list -}}
{{- range .given }}{{ $names = append $names .name }}{{ end -}}
{{- $left := list -}}
{{- range (.own | fromYamlArray) }}{{ if not (has .name $names) }}{{ $left = append $left . }}{{ end }}{{ end -}}
{{- with $left }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* (dict "root" $ "component" "edge" "port" 8080 "env" (list …)) */}}
{{- define "heliograph.deployment" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $values := index $root.Values $component -}}
{{- $pods := include "heliograph.pods" . | fromYaml -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "heliograph.name" . }}
  labels:
    {{- include "heliograph.labels" . | nindent 4 }}
spec:
  {{- /* edges: an EdgeFleet says how many, and a replicas field here would take its number back at every upgrade */}}
  {{- if hasKey . "replicas" }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    {{- if .recreate }}
    type: Recreate
    {{- else }}
    type: RollingUpdate
    rollingUpdate: { maxSurge: 1, maxUnavailable: 0 }
    {{- end }}
  selector:
    matchLabels:
      {{- include "heliograph.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- /* without the chart's version: a release that changes nothing of a pod leaves it alone */}}
        {{- include "heliograph.selector" . | nindent 8 }}
        app.kubernetes.io/part-of: heliograph
        {{- with $pods.labels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/settings: {{ include "heliograph.settings" $root | sha256sum }}
        {{- with $pods.annotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "heliograph.name" . }}
      automountServiceAccountToken: {{ .token | default false }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ include "heliograph.grace" . }}
      {{- include "heliograph.pullSecrets" $root | nindent 6 }}
      {{- with $pods.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      securityContext:
        {{- toYaml $pods.securityContext | nindent 8 }}
      {{- with $pods.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $pods.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $pods.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if not .recreate }}
      topologySpreadConstraints:
        {{- if kindIs "slice" $pods.topologySpreadConstraints }}
        {{- toYaml $pods.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - topologyKey: {{ $key }}
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels:
              {{- include "heliograph.selector" $ | nindent 14 }}
        {{- end }}
        {{- end }}
      {{- end }}
      containers:
        - name: {{ $component }}
          image: {{ include "heliograph.image" (dict "root" $root "component" $component "image" $values.image) | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          {{- with .args }}
          args:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            - { name: http, containerPort: {{ .port }}, protocol: TCP }
          envFrom:
            - configMapRef: { name: {{ include "heliograph.fullname" $root }}-settings }
            {{- with $pods.extraEnvFrom }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          env:
            - name: POD_NAME
              valueFrom: { fieldRef: { fieldPath: metadata.name } }
            - name: POD_NAMESPACE
              valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
            - name: POD_IP
              valueFrom: { fieldRef: { fieldPath: status.podIP } }
            {{- with $pods.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            {{- include "heliograph.unlessGiven" (dict "given" $pods.extraEnv "own" (include "heliograph.ownEnv" .)) | nindent 12 }}
          {{- if $values.preStopSeconds }}
          lifecycle:
            preStop: { sleep: { seconds: {{ $values.preStopSeconds }} } }
          {{- end }}
          # Alive is only what a restart would not help: neither a drain nor a dead broker ends it.
          startupProbe:
            httpGet: { path: /livez, port: http }
            periodSeconds: 1
            timeoutSeconds: 2
            failureThreshold: 120
          livenessProbe:
            httpGet: { path: /livez, port: http }
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: { path: /readyz, port: http }
            periodSeconds: 3
            timeoutSeconds: 2
            failureThreshold: 2
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            {{- toYaml $pods.containerSecurityContext | nindent 12 }}
          {{- $mounts := concat (include "heliograph.secretMounts" $root | fromYamlArray) ($pods.extraVolumeMounts | default list) }}
          {{- with $mounts }}
          volumeMounts:
            {{- toYaml . | nindent 12 }}
          {{- end }}
      {{- $volumes := concat (include "heliograph.secretVolumes" $root | fromYamlArray) ($pods.extraVolumes | default list) }}
      {{- with $volumes }}
      volumes:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}

{{/* (dict "root" $ "component" "edge") */}}
{{- define "heliograph.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "heliograph.name" . }}
  labels:
    {{- include "heliograph.labels" . | nindent 4 }}
  {{- with (index .root.Values .component).serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}

{{/* (dict "root" $ "component" "edge" "most" 10): none where there is only one, whose eviction it would forbid for ever */}}
{{- define "heliograph.podDisruptionBudget" -}}
{{- $budget := (index .root.Values .component).podDisruptionBudget -}}
{{- if and $budget.enabled (gt (int .most) 1) -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "heliograph.name" . }}
  labels:
    {{- include "heliograph.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $budget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "heliograph.selector" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* (dict "root" $ "component" "replay") */}}
{{- define "heliograph.service" -}}
{{- $service := (index .root.Values .component).service -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "heliograph.name" . }}
  labels:
    {{- include "heliograph.labels" . | nindent 4 }}
  {{- with $service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  {{- if ne $service.type "ClusterIP" }}
  externalTrafficPolicy: {{ $service.externalTrafficPolicy | default "Cluster" }}
  {{- end }}
  selector:
    {{- include "heliograph.selector" . | nindent 4 }}
  ports:
    - name: http
      port: {{ $service.port }}
      targetPort: http
      protocol: TCP
      {{- with $service.appProtocol }}
      appProtocol: {{ . | quote }}
      {{- end }}
      {{- if and $service.nodePort (ne $service.type "ClusterIP") }}
      nodePort: {{ $service.nodePort }}
      {{- end }}
{{- end -}}

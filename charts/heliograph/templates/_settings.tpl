{{/* Settings of the services: what is no secret goes into one ConfigMap, whose checksum rolls the pods; what is secret is referenced. */}}

{{- define "heliograph.kafkaServers" -}}
{{- .Values.kafka.bootstrapServers | default (ternary (printf "%s:9092" (include "heliograph.name" (dict "root" . "component" "kafka"))) "" .Values.dev.enabled) -}}
{{- end -}}

{{/* (dict "root" $ "store" "live") → the URL that the ConfigMap holds; empty where a Secret has it, or where the live one is used */}}
{{- define "heliograph.redisUrl" -}}
{{- $store := index .root.Values.redis .store -}}
{{- $url := $store.url -}}
{{- if and (not $url) (not $store.existingSecret.name) .root.Values.dev.enabled (ne .store "token") -}}
{{- $url = printf "redis://%s:6379/0" (include "heliograph.name" (dict "root" .root "component" (printf "redis-%s" .store))) -}}
{{- end -}}
{{- if and $url (not $store.existingSecret.name) -}}
{{- $url -}}
{{- if and .root.Values.redis.tls.caSecret.name (hasPrefix "rediss" $url) -}}
{{- ternary "&" "?" (contains "?" $url) }}ssl_ca_certs=/etc/heliograph/redis/ca.crt
{{- end -}}
{{- end -}}
{{- end -}}

{{/* librdkafka properties as JSON; user name and password are put in by the kubelet, from the environment */}}
{{- define "heliograph.kafkaProperties" -}}
{{- $properties := dict -}}
{{- $kafka := .Values.kafka -}}
{{- $protocol := "" -}}
{{- if and $kafka.tls.enabled $kafka.sasl.mechanism -}}{{- $protocol = "SASL_SSL" -}}
{{- else if $kafka.tls.enabled -}}{{- $protocol = "SSL" -}}
{{- else if $kafka.sasl.mechanism -}}{{- $protocol = "SASL_PLAINTEXT" -}}{{- end -}}
{{- with $protocol }}{{- $_ := set $properties "security.protocol" . -}}{{- end -}}
{{- if and $kafka.tls.enabled $kafka.tls.caSecret.name -}}{{- $_ := set $properties "ssl.ca.location" "/etc/heliograph/kafka/ca.crt" -}}{{- end -}}
{{- if and $kafka.tls.enabled $kafka.tls.clientSecret -}}
{{- $_ := set $properties "ssl.certificate.location" "/etc/heliograph/kafka-client/tls.crt" -}}
{{- $_ := set $properties "ssl.key.location" "/etc/heliograph/kafka-client/tls.key" -}}
{{- end -}}
{{- if $kafka.sasl.mechanism -}}{{- $_ := set $properties "sasl.mechanism" $kafka.sasl.mechanism -}}{{- end -}}
{{- range $name, $value := $kafka.properties -}}{{- $_ := set $properties $name (include "heliograph.text" $value) -}}{{- end -}}
{{- if $kafka.sasl.existingSecret -}}
{{- $_ := set $properties "sasl.username" "$(KAFKA_USERNAME)" -}}
{{- $_ := set $properties "sasl.password" "$(KAFKA_PASSWORD)" -}}
{{- end -}}
{{- with $properties }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* The ConfigMap's data */}}
{{- define "heliograph.settings" -}}
HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS: {{ include "heliograph.kafkaServers" . | quote }}
HELIOGRAPH_TOPIC_PREFIX: {{ .Values.kafka.topicPrefix | quote }}
HELIOGRAPH_VIRTUAL_SHARDS: {{ .Values.redis.virtualShards | toString | quote }}
{{- if not .Values.kafka.sasl.existingSecret }}
{{- with include "heliograph.kafkaProperties" . }}
HELIOGRAPH_KAFKA_PROPERTIES: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $store, $variable := dict "live" "HELIOGRAPH_REDIS_URL" "metadata" "HELIOGRAPH_METADATA_REDIS_URL" "token" "HELIOGRAPH_TOKEN_REDIS_URL" }}
{{- with include "heliograph.redisUrl" (dict "root" $ "store" $store) }}
{{ $variable }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
HELIOGRAPH_{{ upper $name }}: {{ include "heliograph.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* A setting's value as text: lists with commas, large numbers without an exponent */}}
{{- define "heliograph.text" -}}
{{- if kindIs "slice" . -}}
{{- $parts := list -}}
{{- range . }}{{ $parts = append $parts (include "heliograph.text" .) }}{{ end -}}
{{- join "," $parts -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}
{{- else if kindIs "map" . -}}{{ toJson . }}
{{- else -}}{{ toString . }}
{{- end -}}
{{- end -}}

{{/* Environment that every container of ours has: settings from the ConfigMap, secrets by reference */}}
{{- define "heliograph.secretEnv" -}}
{{- range $store, $variable := dict "live" "HELIOGRAPH_REDIS_URL" "metadata" "HELIOGRAPH_METADATA_REDIS_URL" "token" "HELIOGRAPH_TOKEN_REDIS_URL" }}
{{- $secret := (index $.Values.redis $store).existingSecret }}
{{- if $secret.name }}
- name: {{ $variable }}
  valueFrom: { secretKeyRef: { name: {{ $secret.name | quote }}, key: {{ $secret.key | quote }} } }
{{- end }}
{{- end }}
{{- with .Values.kafka.sasl }}
{{- if .existingSecret }}
- name: KAFKA_USERNAME
  valueFrom: { secretKeyRef: { name: {{ .existingSecret | quote }}, key: {{ .usernameKey | quote }} } }
- name: KAFKA_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ .existingSecret | quote }}, key: {{ .passwordKey | quote }} } }
- name: HELIOGRAPH_KAFKA_PROPERTIES
  value: {{ include "heliograph.kafkaProperties" $ | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "heliograph.secretVolumes" -}}
{{- with .Values.kafka.tls }}
{{- if and .enabled .caSecret.name }}
- name: kafka-ca
  secret: { secretName: {{ .caSecret.name | quote }}, items: [{ key: {{ .caSecret.key | quote }}, path: ca.crt }] }
{{- end }}
{{- if and .enabled .clientSecret }}
- name: kafka-client
  secret: { secretName: {{ .clientSecret | quote }} }
{{- end }}
{{- end }}
{{- with .Values.redis.tls.caSecret }}
{{- if .name }}
- name: redis-ca
  secret: { secretName: {{ .name | quote }}, items: [{ key: {{ .key | quote }}, path: ca.crt }] }
{{- end }}
{{- end }}
{{- end -}}

{{- define "heliograph.secretMounts" -}}
{{- with .Values.kafka.tls }}
{{- if and .enabled .caSecret.name }}
- { name: kafka-ca, mountPath: /etc/heliograph/kafka, readOnly: true }
{{- end }}
{{- if and .enabled .clientSecret }}
- { name: kafka-client, mountPath: /etc/heliograph/kafka-client, readOnly: true }
{{- end }}
{{- end }}
{{- if .Values.redis.tls.caSecret.name }}
- { name: redis-ca, mountPath: /etc/heliograph/redis, readOnly: true }
{{- end }}
{{- end -}}

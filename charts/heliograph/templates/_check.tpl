{{/* What the schema can't say: combinations. Each message names the value and what would be right. */}}
{{- define "heliograph.check" -}}
{{- if not (include "heliograph.kafkaServers" .) -}}
{{- fail "kafka.bootstrapServers is empty: give the brokers as host:port, or dev.enabled=true for a throw-away Kafka (values-dev.yaml)" -}}
{{- end -}}
{{- $live := .Values.redis.live -}}
{{- if not (or $live.url $live.existingSecret.name .Values.dev.enabled) -}}
{{- fail "redis.live has neither url nor existingSecret.name: give one, or dev.enabled=true for a throw-away Redis (values-dev.yaml)" -}}
{{- end -}}
{{- range $store := list "live" "metadata" "token" -}}
{{- with index $.Values.redis $store -}}
{{- if and .url .existingSecret.name -}}
{{- fail (printf "redis.%s has both url and existingSecret.name: the Secret holds the whole URL, leave url empty" $store) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.kafka.sasl -}}
{{- if and .mechanism (not .existingSecret) -}}
{{- fail (printf "kafka.sasl.mechanism is %s and kafka.sasl.existingSecret is empty: name the Secret that holds user name and password" .mechanism) -}}
{{- end -}}
{{- if and .existingSecret (not .mechanism) -}}
{{- fail "kafka.sasl.existingSecret is given and kafka.sasl.mechanism is empty: say PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512" -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.kafka.tls.enabled) (or .Values.kafka.tls.caSecret.name .Values.kafka.tls.clientSecret) -}}
{{- fail "kafka.tls has Secrets and kafka.tls.enabled is false: nothing would be encrypted" -}}
{{- end -}}
{{- with .Values.edge.fleet -}}
{{- if gt (int .min) (int .max) -}}
{{- fail (printf "edge.fleet.min is %d and edge.fleet.max is %d: min must not be above max (equal for a fixed number)" (int .min) (int .max)) -}}
{{- end -}}
{{- range $name := list "deploymentRef" "min" "max" "drain" -}}
{{- if hasKey $.Values.edge.fleet.spec $name -}}
{{- fail (printf "edge.fleet.spec.%s is set by the chart: use edge.fleet.min, edge.fleet.max or edge.drain" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.edge.drain -}}
{{- if ge (int .noticeSeconds) (int .timeoutSeconds) -}}
{{- fail (printf "edge.drain.noticeSeconds is %d and edge.drain.timeoutSeconds is %d: nothing is left to drain in" (int .noticeSeconds) (int .timeoutSeconds)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.enabled is true and ingress.host is empty" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled is true and httpRoute.parentRefs is empty: name the Gateway" -}}
{{- end -}}
{{- if and .Values.networkPolicy.egress.enabled (not .Values.dev.enabled) (or (not .Values.networkPolicy.egress.kafka) (not .Values.networkPolicy.egress.redis)) -}}
{{- fail "networkPolicy.egress.enabled is true: give the CIDRs of Kafka and Redis in networkPolicy.egress.kafka and .redis, or pods could reach neither" -}}
{{- end -}}
{{- end -}}

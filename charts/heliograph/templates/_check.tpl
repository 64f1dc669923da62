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
{{- if or (contains "@" .url) (contains "sentinel_password=" .url) -}}
{{- fail (printf "redis.%s.url has a user or password, which everybody who may read ConfigMaps would see: put the whole URL into a Secret and name it in redis.%s.existingSecret" $store $store) -}}
{{- end -}}
{{- if .url -}}
{{- $host := `(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?` -}}
{{- $hosts := printf "%s(,%s)*" $host $host -}}
{{- if and (regexMatch `^rediss?://` .url) (not (regexMatch (printf `^rediss?://%s(/[0-9]*)?(\?.*)?$` $host) .url)) -}}
{{- fail (printf "redis.%s.url must be redis://host[:port][/database]; several hosts are sentinels (redis+sentinel://) or nodes of a cluster (redis+cluster://)" $store) -}}
{{- else if and (regexMatch `^rediss?\+sentinel:` .url) (not (regexMatch (printf `^rediss?\+sentinel://%s/[A-Za-z0-9._-]+(/[0-9]*)?(\?.*)?$` $hosts) .url)) -}}
{{- fail (printf "redis.%s.url must be redis+sentinel://host[:port],host[:port]/master-name[/database]: the name is what the sentinels monitor the primary by" $store) -}}
{{- else if and (regexMatch `^rediss?\+cluster:` .url) (not (regexMatch (printf `^rediss?\+cluster://%s(/0?)?(\?.*)?$` $hosts) .url)) -}}
{{- fail (printf "redis.%s.url must be redis+cluster://host[:port],host[:port]: a Redis Cluster has only database 0" $store) -}}
{{- end -}}
{{- end -}}
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
{{- range $name := list "deploymentRef" "min" "max" -}}
{{- if hasKey $.Values.edge.fleet.spec $name -}}
{{- fail (printf "edge.fleet.spec.%s is set by the chart: use edge.fleet.min and edge.fleet.max" $name) -}}
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
{{- if and .Values.networkPolicy.egress.enabled (not .Values.dev.enabled) -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.egress.redis }}{{ range .ports }}{{ $ports = append $ports (int .) }}{{ end }}{{ end -}}
{{- range $store := list "live" "metadata" "token" -}}
{{- $url := (index $.Values.redis $store).url -}}
{{- range splitList "," (regexReplaceAll `[/?].*$` (regexReplaceAll `^[a-z+]+://` $url "") "") -}}
{{- if . -}}
{{- $port := regexFind `[0-9]+$` (regexFind `:[0-9]+$` (regexReplaceAll `^\[.*\]` . "")) | default (ternary "26379" "6379" (contains "+sentinel:" $url)) -}}
{{- if not (has (int $port) $ports) -}}
{{- fail (printf "redis.%s.url leads to port %s, which networkPolicy.egress.redis does not let out: give its CIDR with that port, and with 6379 or what the servers have behind sentinels" $store $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $values := dict
  "host" "0.0.0.0, always" "port" "the component's own" "drain_timeout_s" "drain.timeoutSeconds" "drain_notice_s" "edge.drain.noticeSeconds"
  "redis_url" "redis.live" "metadata_redis_url" "redis.metadata" "token_redis_url" "redis.token" "virtual_shards" "redis.virtualShards"
  "kafka_bootstrap_servers" "kafka.bootstrapServers" "kafka_properties" "kafka.properties" "topic_prefix" "kafka.topicPrefix"
  "edge_name" "the pod's name" "router_name" "the pod's name" "advertise_address" "the pod's address" "watch_namespaces" "operator.namespaces" "watch_labels" "operator.matchLabels" -}}
{{- range $path, $settings := dict "settings" .Values.settings "edge.settings" .Values.edge.settings "router.settings" .Values.router.settings "replay.settings" .Values.replay.settings "registry.settings" .Values.registry.settings "operator.settings" .Values.operator.settings -}}
{{- range $name, $value := $settings -}}
{{- if hasKey $values $name -}}
{{- fail (printf "%s.%s is set by the chart: %s" $path $name (index $values $name)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z][a-z0-9_]*$" $name) -}}
{{- fail (printf "%s.%s: settings are named in lower case and without HELIOGRAPH_, as jwt_audience" $path $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .Values.kafka.properties -}}
{{- if regexMatch "password|secret|jaas|key\\.pem|passphrase|token" $name -}}
{{- fail (printf "kafka.properties.%s would be in a ConfigMap, for all to read: SASL's user and password come from kafka.sasl.existingSecret, certificates from kafka.tls; any other through pods.extraEnv, as the whole of HELIOGRAPH_KAFKA_PROPERTIES" $name) -}}
{{- end -}}
{{- if has $name (list "bootstrap.servers" "metadata.broker.list" "security.protocol" "sasl.mechanism" "sasl.mechanisms" "sasl.username") -}}
{{- fail (printf "kafka.properties.%s is set by the chart, from kafka.bootstrapServers, kafka.tls and kafka.sasl" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

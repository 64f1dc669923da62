{{/* Who serves which path to clients, the longest first. Nothing outside /v1: probes and metrics are not for the world. */}}
{{- define "heliograph.routes" -}}
- { path: /v1/history, component: replay }
- { path: /v1/export, component: replay }
- { path: /v1/presence, component: registry }
- { path: /v1, component: edge }
{{- end -}}

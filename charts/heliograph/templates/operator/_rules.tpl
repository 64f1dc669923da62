{{/*
What the operator may do, verb by verb. Watching is list and watch; reading one object is get.
Nothing is deleted, no Secret is written but those of `spec.access`, and nothing outside the kinds below is touched.
*/}}
{{- define "heliograph.operatorRules" -}}
# What it is for: specs are read; annotations and the one finalizer are set on Tenants.
- apiGroups: [heliograph.dev]
  resources: [tenants]
  verbs: [get, list, watch, patch]
- apiGroups: [heliograph.dev]
  resources: [edgefleets]
  verbs: [get, list, watch]
- apiGroups: [heliograph.dev]
  resources: [tenants/status, edgefleets/status]
  verbs: [patch]
# Keys of tenants. Which Secrets and ConfigMaps can be named is the namespace's affair; only labelled ones are watched.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list, watch]
# Fleets: how many edges there are, and which of them go first (pod-deletion-cost). All read at each look, none watched.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, patch]
# An autoscaler aimed at the same Deployment is a conflict.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
# What changed, for kubectl describe; one that was said before is counted.
- apiGroups: [""]
  resources: [events]
  verbs: [create, get, patch]
{{- end -}}

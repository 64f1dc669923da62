"""Tenants and edge fleets as Kubernetes resources."""

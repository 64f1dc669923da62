"""Grafana dashboards, written as code: `make docs` makes charts/heliograph/files/dashboards/*.json of them.

Needs grafana-foundation-sdk, which is there for developers alone (dependency group `dev`).
"""

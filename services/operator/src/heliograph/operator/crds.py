"""The custom resource definitions, as files: charts/heliograph/crds, which Helm installs before everything else."""

from collections.abc import Callable, Mapping

from heliograph.operator.fleets.crd import edge_fleet_crd
from heliograph.operator.schema import Schema
from heliograph.operator.tenants.crd import tenant_crd

CRDS: Mapping[str, Callable[[], Schema]] = {
    "tenants.heliograph.dev.yaml": tenant_crd,
    "edgefleets.heliograph.dev.yaml": edge_fleet_crd,
}
"""File name → what is in it. `make docs` writes them."""

"""The operator's settings, besides those that services share."""

import re
from typing import Annotated

from pydantic import AfterValidator

from heliograph.service.settings import CommaList, KafkaSettings, RedisSettings, ServiceSettings, setting

LABEL = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?"
    r"=([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?",
    re.ASCII,
)
"""`name=value`, as Kubernetes takes them."""


def _check_labels(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not LABEL.fullmatch(value):
            raise ValueError("must be name=value, or several with commas between them")
    return values


class OperatorSettings(ServiceSettings, KafkaSettings, RedisSettings):
    """What an operator needs to know."""

    port: int = setting(8084, "Probes and metrics; the others have 8080 to 8082.", unit="TCP port", ge=0, le=65_535)
    watch_namespaces: CommaList = setting(
        (), "Namespaces whose resources are its own. Empty: all of them, which needs a ClusterRole."
    )
    watch_labels: Annotated[CommaList, AfterValidator(_check_labels)] = setting(
        (),
        "Labels, as in environment=staging, that Tenants and EdgeFleets must have to be its own: for several operators "
        "in one cluster. Empty: it looks after all.",
    )
    workers: int = setting(
        8,
        "Objects looked at side by side: the time goes into waiting for Kafka and the API server.",
        unit="objects",
        ge=1,
    )
    reconcile_timeout_s: float = setting(
        120.0, "Of one look at an object: many topics are made one after the other, each within 10 s.", gt=0, le=3_600
    )
    resync_interval_s: float = setting(
        300.0, "Everything is looked at again this often: finds what was changed in Kafka by hand.", gt=0
    )
    retry_base_s: float = setting(1.0, "First delay after a look that failed, doubled each time, drawn evenly.", gt=0)
    retry_cap_s: float = setting(60.0, "Longest delay: a Kafka that is back is used within a minute.", gt=0)
    retries: int = setting(
        10,
        "In a row for one object; then it waits for the resync, so that it can't keep workers busy.",
        unit="tries",
        ge=0,
    )
    fleet_interval_s: float = setting(
        5.0, "Between looks at an edge fleet: a storm is met within this; a look costs some small reads.", gt=0
    )
    fleet_busy_interval_s: float = setting(1.0, "The same while an edge is on its way out.", gt=0)
    kube_timeout_s: float = setting(10.0, "Of one request to the API server.", gt=0)
    watch_server_timeout_s: float = setting(
        240.0, "The API server ends a watch after this and it begins again: no connection is held for ever.", ge=1
    )
    watch_client_timeout_s: float = setting(
        300.0, "The same from our side, where the server's end is not heard: above watch_server_timeout_s.", ge=1
    )
    watch_connect_timeout_s: float = setting(10.0, "To connect a watch: a server that drops packets is left.", gt=0)
    watch_inactivity_timeout_s: float = setting(
        70.0, "A watch without a word begins anew: the API server sends a bookmark each minute.", gt=0
    )
    watch_check_interval_s: float = setting(
        60.0, "How often a list of everything is compared with what the watch told.", gt=0
    )
    watch_stuck_s: float = setting(
        180.0, "A watch that keeps a change back for so long is stuck, and /livez says so: two renewals of it.", gt=0
    )
    adoption: bool = setting(
        True,
        "Whether the annotation heliograph.dev/adopt is heeded: that a Tenant may have data which was another's. Off "
        "where those who make Tenants may not be trusted with each other's.",
    )
    jwks_hosts: CommaList = setting(
        (), "Hosts that Tenants may have their keys fetched from, as in login.example.com. Empty: none, no URL works."
    )
    jwks_private_hosts: CommaList = setting(
        (), "Those of them that may be at private addresses: an identity provider inside the cluster."
    )
    jwks_refresh_s: float = setting(
        300.0, "How often keys are fetched again: a rotated key is taken within this.", gt=0
    )
    jwks_timeout_s: float = setting(10.0, "Of one fetch, redirects included.", gt=0, le=60)
    jwks_max_bytes: int = setting(262_144, "Of a key set: 64 large keys are 100 KB.", ge=1_024, le=16_777_216)

    def labels(self) -> dict[str, str]:
        """`watch_labels` by name."""
        return dict(label.split("=", 1) for label in self.watch_labels)

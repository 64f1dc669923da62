"""The registry's settings, besides those that services share."""

from heliograph.service.settings import RedisSettings, ServiceSettings, TokenSettings, setting


class RegistrySettings(ServiceSettings, RedisSettings, TokenSettings):
    """What a registry needs to know."""

    port: int = setting(8082, "The edge has 8080, replay 8081. 0 picks a free one.", unit="TCP port", ge=0, le=65_535)
    max_connections_per_page: int = setting(
        1_000, "Connections of one answer: about 300 KB of JSON.", unit="connections", ge=1, le=10_000
    )
    reap_interval_s: float = setting(
        0.5,
        "How often edges whose lease ran out are looked for: well below a third of a lease, or none is ever reaped.",
        gt=0,
    )
    census_interval_s: float = setting(
        5.0, "How often edges are counted for metrics; a scrape must not ask the store.", gt=0
    )
    census_tenants: int = setting(
        100,
        "Tenants with a metric of their own, those with the most connections; the others are one.",
        unit="tenants",
        ge=0,
        le=1_000,
    )

"""What tests of the metadata stores look at beside the stores."""

from heliograph.stores.redis.metadata import MetadataClient


async def keys_in(client: MetadataClient, pattern: str = "*") -> list[bytes]:
    """KEYS, of all primaries of a Cluster."""
    return sorted([key for server in await client.servers() for key in await server.keys(pattern)])

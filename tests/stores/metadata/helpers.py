"""What tests of the metadata stores look at beside the stores."""

from heliograph.stores.redis.metadata import MetadataClient
from heliograph.stores.redis.metadata.cluster import ClusterRedis


async def keys_in(client: MetadataClient, pattern: str = "*") -> list[bytes]:
    """KEYS, of all primaries of a Cluster."""
    if isinstance(client.redis, ClusterRedis):
        nodes = await client.redis.layout.primaries()
        return sorted([key for node in nodes for key in await node.redis.keys(pattern)])
    return sorted(await client.redis.keys(pattern))

"""The Tenant resource: a tenant's topics, record, keys and access, as a namespace's owner writes them."""

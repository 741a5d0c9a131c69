"""Where vectors are kept: the Redis cache and the result stores. Ports are owned by `embakery`."""

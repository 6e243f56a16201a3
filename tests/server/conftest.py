"""A Redis server for the tests that ask for one."""

from tests.redis_server import redis_server

__all__ = ["redis_server"]

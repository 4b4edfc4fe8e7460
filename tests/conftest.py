"""Fixtures that every test may ask for."""

from ray_cluster import ray_address
from real_servers import kafka_address, minio, moto, versitygw

__all__ = ["kafka_address", "minio", "moto", "ray_address", "versitygw"]

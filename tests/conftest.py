"""Fixtures that every test may ask for."""

from real_servers import kafka_address, minio, moto, versitygw

__all__ = ["kafka_address", "minio", "moto", "versitygw"]

"""A whole cluster on loopback for benchmarks: real Kafka, real MinIO, real service processes, and stages without torch.

stages        what the services run: deterministic work that says what it takes
distribution  how the services find these stages: as those of a third party, by entry point
place         broker, store and topics, and the environment in which services find them
services      service processes: started, measured, ended by id
"""

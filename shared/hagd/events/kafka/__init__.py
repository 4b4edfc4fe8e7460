"""The event log over Kafka.

log        the port: append, claim, ack, release, extend, read
producer   writes, durable on return
consumer   one thread per topic that owns a consumer, fetches, commits
window     which offsets of a partition are held, and which may be committed; knows nothing of Kafka
reader     reads for observers
admin      makes topics, and checks those that are there
settings   where the brokers are
failures   what the errors of the client mean
"""

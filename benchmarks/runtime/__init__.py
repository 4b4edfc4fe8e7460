"""`make bench-runtime`: what the runtime costs over real Kafka and MinIO, with floors. One file per row of the table.

driver     a service process: memory, time to SERVING, no torch
artifact   a large artifact through the store, beside the client alone
computed   requests whose results are there: time of each at a steady rate, and the most per second (calls, bare)
burst      many more requests than a slow stage can take
scaling    workers of one stage (rows `process` and `ray`), beside bare processes

Everything is on loopback and ends with the benchmark. Rivals run in the same run, on the same servers.
"""

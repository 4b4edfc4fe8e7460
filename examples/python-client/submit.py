"""Ask for an extraction over Kafka, and wait for its fact. Arguments: HOST:PORT REQUEST-ID"""

import hashlib
import json
import sys

from kafka import KafkaConsumer, KafkaProducer

servers, name = sys.argv[1:]
run = hashlib.sha256(json.dumps(["my-app", name], separators=(",", ":")).encode()).hexdigest()
facts = ["hagd.circuit.verified.v1", "hagd.run.failed.v1", "hagd.run.cancelled.v1", "hagd.extraction.dead.v1"]
told = KafkaConsumer(*facts, bootstrap_servers=servers, auto_offset_reset="earliest")
request = {"request_id": name, "settings": {"task": "modular-addition", "modulus": 113}}
event = {"specversion": "1.0", "id": name, "source": "my-app", "type": "hagd.extraction.requested.v1", "data": request}
headers = [("content-type", b"application/cloudevents+json")]
producer = KafkaProducer(bootstrap_servers=servers)
producer.send("hagd.extraction.requested.v1", json.dumps(event).encode(), headers=headers).get(30)
print(next((fact.topic, json.loads(fact.value)) for fact in told if ("ce_subject", run.encode()) in fact.headers))

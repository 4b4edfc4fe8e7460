// Ask for an extraction over Kafka, and wait for its fact: go run . HOST:PORT REQUEST-ID
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	servers, id, ctx := os.Args[1], os.Args[2], context.Background()
	run := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, `["my-app",%q]`, id)))
	facts := []string{"hagd.circuit.verified.v1", "hagd.run.failed.v1", "hagd.run.cancelled.v1", "hagd.extraction.dead.v1"}
	client, err := kgo.NewClient(kgo.SeedBrokers(servers), kgo.ConsumeTopics(facts...))
	if err != nil {
		panic(err)
	}
	event := fmt.Appendf(nil, `{"specversion": "1.0", "id": %[1]q, "source": "my-app", "type": "hagd.extraction.requested.v1",
		"data": {"request_id": %[1]q, "settings": {"task": "modular-addition", "modulus": 113}}}`, id)
	headers := []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/cloudevents+json")}}
	request := &kgo.Record{Topic: "hagd.extraction.requested.v1", Value: event, Headers: headers}
	if err := client.ProduceSync(ctx, request).FirstErr(); err != nil {
		panic(err)
	}
	for {
		for _, fact := range client.PollFetches(ctx).Records() {
			for _, header := range fact.Headers {
				if header.Key == "ce_subject" && string(header.Value) == run {
					fmt.Println(fact.Topic, string(fact.Value))
					return
				}
			}
		}
	}
}

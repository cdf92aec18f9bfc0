// A producer or a push consumer of the Go client.
//
//	client produce NAMESRV GROUP TOPIC COUNT
//	client consume NAMESRV GROUP TOPIC        until its standard input ends; prints one line per message
//	client fail NAMESRV GROUP TOPIC           the same, but every message fails; prints "TRIES QUEUE BODY"
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

func check(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func produce(namesrv, group, topic, count string) {
	total, err := strconv.Atoi(count)
	check(err)
	sender, err := rocketmq.NewProducer(
		producer.WithNameServer(primitive.NamesrvAddr{namesrv}), producer.WithGroupName(group), producer.WithRetry(2))
	check(err)
	check(sender.Start())
	sent := 0
	for number := 0; number < total; number++ {
		message := primitive.NewMessage(topic, []byte(fmt.Sprintf("body %d", number)))
		message.WithKeys([]string{fmt.Sprintf("key-%d", number)})
		result, err := sender.SendSync(context.Background(), message)
		check(err)
		if result.Status == primitive.SendOK {
			sent++
		}
	}
	check(sender.Shutdown())
	fmt.Printf("sent %d\n", sent)
}

func consume(namesrv, group, topic string) {
	receiver, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer(primitive.NamesrvAddr{namesrv}), consumer.WithGroupName(group),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	check(err)
	var lock sync.Mutex
	check(receiver.Subscribe(topic, consumer.MessageSelector{},
		func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			lock.Lock()
			defer lock.Unlock()
			for _, message := range messages {
				fmt.Printf("%d %d %s\n", message.Queue.QueueId, message.QueueOffset, message.Body)
			}
			return consumer.ConsumeSuccess, nil
		}))
	check(receiver.Start())
	fmt.Println("started")
	_, _ = io.Copy(io.Discard, os.Stdin)
	check(receiver.Shutdown())
}

func fail(namesrv, group, topic string) {
	receiver, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer(primitive.NamesrvAddr{namesrv}), consumer.WithGroupName(group),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithMaxReconsumeTimes(2))
	check(err)
	check(receiver.Subscribe(topic, consumer.MessageSelector{},
		func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			for _, message := range messages {
				fmt.Printf("%d %d %s\n", message.ReconsumeTimes, message.Queue.QueueId, message.Body)
			}
			return consumer.ConsumeRetryLater, nil
		}))
	check(receiver.Start())
	fmt.Println("started")
	_, _ = io.Copy(io.Discard, os.Stdin)
	check(receiver.Shutdown())
}

func main() {
	rlog.SetLogLevel("error")
	arguments := os.Args[2:]
	if os.Args[1] == "produce" {
		produce(arguments[0], arguments[1], arguments[2], arguments[3])
	} else if os.Args[1] == "fail" {
		fail(arguments[0], arguments[1], arguments[2])
	} else {
		consume(arguments[0], arguments[1], arguments[2])
	}
}

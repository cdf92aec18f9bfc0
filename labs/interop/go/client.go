// The Go client with the commands that all clients of these labs have; see other_clients.py.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

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

func checkSend(result *primitive.SendResult, err error) {
	check(err)
	if result.Status != primitive.SendOK {
		check(fmt.Errorf("a send ended as %v", result))
	}
}

func startedProducer(namesrv, group string) rocketmq.Producer {
	sender, err := rocketmq.NewProducer(
		producer.WithNameServer(primitive.NamesrvAddr{namesrv}), producer.WithGroupName(group), producer.WithRetry(2),
		producer.WithQueueSelector(producer.NewHashQueueSelector()))
	check(err)
	check(sender.Start())
	return sender
}

func message(topic, tags, keys, body string) *primitive.Message {
	message := primitive.NewMessage(topic, []byte(body))
	return message.WithTag(tags).WithKeys([]string{keys})
}

func produce(namesrv, group, topic, count string) {
	total, err := strconv.Atoi(count)
	check(err)
	sender := startedProducer(namesrv, group)
	for n := 0; n < total; n++ {
		checkSend(sender.SendSync(context.Background(),
			message(topic, "TagA", fmt.Sprintf("key-%d", n), fmt.Sprintf("body %d", n))))
	}
	check(sender.Shutdown())
	fmt.Printf("sent %d\n", total)
}

func mixture(namesrv, group, topic string) {
	ctx := context.Background()
	sender := startedProducer(namesrv, group)
	for n := 0; n < 10; n++ {
		tags := []string{"even", "odd"}[n%2]
		numbered := message(topic, tags, fmt.Sprintf("k%d", n), fmt.Sprintf("n%d", n))
		numbered.WithProperty("n", strconv.Itoa(n))
		checkSend(sender.SendSync(ctx, numbered))
	}
	checkSend(sender.SendSync(ctx, message(topic, "big", "big", strings.Repeat("abcdefgh", 2000))))
	batch := []*primitive.Message{}
	for n := 0; n < 5; n++ {
		batch = append(batch, message(topic, "batch", fmt.Sprintf("b%d", n), fmt.Sprintf("b%d", n)))
	}
	checkSend(sender.SendSync(ctx, batch...))
	var done sync.WaitGroup
	for n := 0; n < 3; n++ {
		done.Add(1)
		check(sender.SendAsync(ctx, func(_ context.Context, result *primitive.SendResult, err error) {
			checkSend(result, err)
			done.Done()
		}, message(topic, "async", fmt.Sprintf("a%d", n), fmt.Sprintf("a%d", n))))
	}
	done.Wait()
	for n := 0; n < 5; n++ {
		checkSend(sender.SendSync(ctx, message(topic, "sharded", fmt.Sprintf("s%d", n), "same").WithShardingKey("key")))
	}
	check(sender.SendOneWay(ctx, message(topic, "oneway", "o", "one way")))
	checkSend(sender.SendSync(ctx, message(topic, "last", "l", "last")))
	check(sender.Shutdown())
	fmt.Println("mixture sent")
}

var printing sync.Mutex

func show(name string, messages []*primitive.MessageExt) {
	printing.Lock()
	defer printing.Unlock()
	for _, message := range messages {
		fmt.Printf("%s %d %d %s\n", name, message.Queue.QueueId, message.QueueOffset, message.Body)
	}
}

func read(namesrv, topic string, readers []string) {
	models := map[string]consumer.MessageModel{
		"CLUSTERING": consumer.Clustering, "BROADCASTING": consumer.BroadCasting,
	}
	receivers := []rocketmq.PushConsumer{}
	for _, reader := range readers {
		fields := strings.SplitN(reader, "|", 5)
		receiver, err := rocketmq.NewPushConsumer(
			consumer.WithNameServer(primitive.NamesrvAddr{namesrv}), consumer.WithInstance(fields[0]),
			consumer.WithGroupName(fields[1]), consumer.WithConsumerModel(models[fields[2]]),
			consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
		check(err)
		selector := consumer.MessageSelector{Type: consumer.ExpressionType(fields[3]), Expression: fields[4]}
		check(receiver.Subscribe(topic, selector,
			func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
				show(fields[0], messages)
				return consumer.ConsumeSuccess, nil
			}))
		check(receiver.Start())
		receivers = append(receivers, receiver)
	}
	fmt.Println("started")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, receiver := range receivers {
		check(receiver.Shutdown())
	}
}

func pull(namesrv, group, topic, count string) {
	total, err := strconv.Atoi(count)
	check(err)
	receiver, err := rocketmq.NewPullConsumer(
		consumer.WithNameServer(primitive.NamesrvAddr{namesrv}), consumer.WithGroupName(group),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	check(err)
	check(receiver.Subscribe(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}))
	check(receiver.Start())
	for got := 0; got < total; {
		polled, err := receiver.Poll(context.Background(), time.Second)
		if consumer.IsNoNewMsgError(err) {
			continue
		}
		check(err)
		show("pull", polled.GetMsgList())
		got += len(polled.GetMsgList())
		receiver.ACK(context.Background(), polled, consumer.ConsumeSuccess)
	}
	check(receiver.Shutdown())
}

func main() {
	rlog.SetLogLevel("error")
	arguments := os.Args[2:]
	switch os.Args[1] {
	case "produce":
		produce(arguments[0], arguments[1], arguments[2], arguments[3])
	case "mixture":
		mixture(arguments[0], arguments[1], arguments[2])
	case "read":
		read(arguments[0], arguments[1], arguments[2:])
	case "pull":
		pull(arguments[0], arguments[1], arguments[2], arguments[3])
	}
}

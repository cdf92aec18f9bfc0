// A producer or a push consumer of the Go client.
//
//	client produce NAMESRV GROUP TOPIC COUNT [ordered KEYS | delayed WAITS]
//	client request NAMESRV GROUP TOPIC COUNT           asks, and prints "reply BODY" for each answer
//	client consume NAMESRV GROUP TOPIC INSTANCE [ordered MILLIS | reply PREFIX]
//	client fail NAMESRV GROUP TOPIC                    every message fails; prints "TRIES QUEUE BODY"
//
// An ordered producer sends step N of the orders order-0, order-1 ... to the queue of the order, with the body
// "order-ORDER:STEP". WAITS are separated by commas, and messages take them in turn: a delay level as "2", seconds as "5s",
// milliseconds as "1500ms", or milliseconds as "@1500", which ask for the time that is so far away.
//
// A consumer runs until its standard input ends and prints one line per message: "QUEUE OFFSET BODY"; in order, where
// each message takes MILLIS and the first one of each queue fails once, "QUEUE BODY BEGIN END".
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

func number(text string) int {
	value, err := strconv.Atoi(text)
	check(err)
	return value
}

func newProducer(namesrv, group string, selector producer.QueueSelector) rocketmq.Producer {
	sender, err := rocketmq.NewProducer(
		producer.WithNameServer(primitive.NamesrvAddr{namesrv}), producer.WithGroupName(group), producer.WithRetry(2),
		producer.WithInstanceName(group), producer.WithQueueSelector(selector))
	check(err)
	check(sender.Start())
	return sender
}

func delay(message *primitive.Message, wait string) {
	if millis, found := strings.CutPrefix(wait, "@"); found {
		due := time.Now().UnixMilli() + int64(number(millis))
		message.WithProperty("TIMER_DELIVER_MS", strconv.FormatInt(due, 10))
	} else if millis, found := strings.CutSuffix(wait, "ms"); found {
		message.WithProperty("TIMER_DELAY_MS", millis)
	} else if seconds, found := strings.CutSuffix(wait, "s"); found {
		message.WithProperty("TIMER_DELAY_SEC", seconds)
	} else {
		message.WithDelayTimeLevel(number(wait))
	}
}

func produce(namesrv, group, topic string, count int, keys int, waits []string) {
	sender := newProducer(namesrv, group, producer.NewHashQueueSelector())
	sent := 0
	for n := 0; n < count; n++ {
		message := primitive.NewMessage(topic, []byte(fmt.Sprintf("body %d", n)))
		message.WithKeys([]string{fmt.Sprintf("key-%d", n)})
		if keys > 0 {
			order := fmt.Sprintf("order-%d", n%keys)
			message.Body = []byte(fmt.Sprintf("%s:%d", order, n/keys))
			message.WithShardingKey(order)
		}
		if len(waits) > 0 {
			delay(message, waits[n%len(waits)])
		}
		result, err := sender.SendSync(context.Background(), message)
		check(err)
		if result.Status == primitive.SendOK {
			sent++
		}
	}
	check(sender.Shutdown())
	fmt.Printf("sent %d\n", sent)
}

func request(namesrv, group, topic string, count int) {
	sender := newProducer(namesrv, group, producer.NewRoundRobinQueueSelector())
	answered := 0
	for n := 0; n < count; n++ {
		message := primitive.NewMessage(topic, []byte(fmt.Sprintf("message %d", n)))
		reply, err := sender.Request(context.Background(), 20*time.Second, message)
		if err != nil {
			fmt.Println("failed:", err)
			continue
		}
		fmt.Printf("reply %s\n", reply.Body)
		answered++
	}
	check(sender.Shutdown())
	fmt.Printf("stored %d\n", answered)
}

func consume(namesrv, group, topic, instance string, mode, value string) {
	ordered := mode == "ordered"
	receiver, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer(primitive.NamesrvAddr{namesrv}), consumer.WithGroupName(group),
		consumer.WithInstance(instance), consumer.WithConsumerOrder(ordered),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	check(err)
	var replier rocketmq.Producer
	if mode == "reply" {
		replier = newProducer(namesrv, "GoRepliers", producer.NewRoundRobinQueueSelector())
	}
	var lock sync.Mutex
	failed := map[int]bool{}
	inOrder := func(message *primitive.MessageExt) bool {
		begin := time.Now().UnixMilli()
		time.Sleep(time.Duration(number(value)) * time.Millisecond)
		lock.Lock()
		defer lock.Unlock()
		if !failed[message.Queue.QueueId] {
			failed[message.Queue.QueueId] = true
			return false
		}
		fmt.Printf("%d %s %d %d\n", message.Queue.QueueId, message.Body, begin, time.Now().UnixMilli())
		return true
	}
	answer := func(message *primitive.MessageExt) {
		body := []byte(value + string(message.Body))
		reply, err := consumer.CreateReplyMessage(message, body)
		if err == nil {
			// v2.1.2 reads the body as properties and leaves it empty.
			reply.Body = body
			_, err = replier.SendSync(context.Background(), reply)
		}
		if err != nil {
			fmt.Println("failed:", err)
		}
	}
	check(receiver.Subscribe(topic, consumer.MessageSelector{},
		func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			for _, message := range messages {
				if ordered {
					if !inOrder(message) {
						return consumer.SuspendCurrentQueueAMoment, nil
					}
					continue
				}
				if replier != nil {
					answer(message)
				}
				lock.Lock()
				fmt.Printf("%d %d %s\n", message.Queue.QueueId, message.QueueOffset, message.Body)
				lock.Unlock()
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
	arguments := append(os.Args[2:], "", "")
	switch os.Args[1] {
	case "produce":
		keys, waits := 0, []string{}
		switch arguments[4] {
		case "ordered":
			keys = number(arguments[5])
		case "delayed":
			waits = strings.Split(arguments[5], ",")
		}
		produce(arguments[0], arguments[1], arguments[2], number(arguments[3]), keys, waits)
	case "request":
		request(arguments[0], arguments[1], arguments[2], number(arguments[3]))
	case "fail":
		fail(arguments[0], arguments[1], arguments[2])
	default:
		consume(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
	}
}

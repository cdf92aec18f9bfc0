// A transactional producer of the Go client.
//
//	transact NAMESRV GROUP TOPIC BODY...   sends each body in a transaction, then answers checks until its standard input ends
//
// A body says how its transaction ends: "commit...", "rollback...", or "unknown-commit..." and "unknown-rollback...", which
// are known to a check only.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

type ledger struct{}

func state(body string) primitive.LocalTransactionState {
	switch {
	case strings.HasPrefix(body, "unknown"):
		return primitive.UnknowState
	case strings.HasPrefix(body, "commit"):
		return primitive.CommitMessageState
	}
	return primitive.RollbackMessageState
}

func (ledger) ExecuteLocalTransaction(message *primitive.Message) primitive.LocalTransactionState {
	return state(string(message.Body))
}

func (ledger) CheckLocalTransaction(message *primitive.MessageExt) primitive.LocalTransactionState {
	fmt.Printf("checked %s\n", message.Body)
	return state(strings.Replace(string(message.Body), "unknown-", "", 1))
}

func check(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func main() {
	rlog.SetLogLevel("error")
	namesrv, group, topic, bodies := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	sender, err := rocketmq.NewTransactionProducer(ledger{},
		producer.WithNameServer(primitive.NamesrvAddr{namesrv}), producer.WithGroupName(group), producer.WithRetry(1))
	check(err)
	check(sender.Start())
	for _, body := range bodies {
		result, err := sender.SendMessageInTransaction(context.Background(), primitive.NewMessage(topic, []byte(body)))
		check(err)
		fmt.Printf("%s %d %d\n", body, result.Status, result.State)
	}
	fmt.Println("sent")
	_, _ = io.Copy(io.Discard, os.Stdin)
	check(sender.Shutdown())
}

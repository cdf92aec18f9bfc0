import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * The Java client with the commands that all clients of these labs have; see other_clients.py.
 */
public class Client {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "produce": produce(args[1], args[2], args[3], Integer.parseInt(args[4])); break;
            case "mixture": mixture(args[1], args[2], args[3]); break;
            case "read": read(args); break;
            case "pull": pull(args[1], args[2], args[3], Integer.parseInt(args[4])); break;
            default: throw new IllegalArgumentException(args[0]);
        }
        System.exit(0);
    }

    private static DefaultMQProducer producer(String nameServers, String group) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(group);
        producer.setNamesrvAddr(nameServers);
        producer.setSendMsgTimeout(10_000);
        producer.start();
        return producer;
    }

    private static Message message(String topic, String tags, String keys, String body) {
        return new Message(topic, tags, keys, body.getBytes(StandardCharsets.UTF_8));
    }

    private static void check(SendResult result) {
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException(result.toString());
        }
    }

    /** Sends from four threads. */
    private static void produce(String nameServers, String group, String topic, int count) throws Exception {
        DefaultMQProducer producer = producer(nameServers, group);
        AtomicInteger next = new AtomicInteger();
        AtomicInteger sent = new AtomicInteger();
        CountDownLatch done = new CountDownLatch(4);
        for (int t = 0; t < 4; t++) {
            new Thread(() -> {
                for (int i = next.getAndIncrement(); i < count; i = next.getAndIncrement()) {
                    try {
                        check(producer.send(message(topic, "TagA", "key-" + i, "body " + i)));
                        sent.incrementAndGet();
                    } catch (Exception e) {
                        System.out.println("failed key-" + i + " " + e);
                    }
                }
                done.countDown();
            }).start();
        }
        done.await();
        producer.shutdown();
        System.out.println("sent " + sent.get());
    }

    private static void mixture(String nameServers, String group, String topic) throws Exception {
        DefaultMQProducer producer = producer(nameServers, group);
        for (int n = 0; n < 10; n++) {
            Message message = message(topic, n % 2 == 0 ? "even" : "odd", "k" + n, "n" + n);
            message.putUserProperty("n", String.valueOf(n));
            check(producer.send(message));
        }
        check(producer.send(message(topic, "big", "big", "abcdefgh".repeat(2_000))));
        List<Message> batch = new ArrayList<>();
        for (int n = 0; n < 5; n++) {
            batch.add(message(topic, "batch", "b" + n, "b" + n));
        }
        check(producer.send(batch));
        CountDownLatch done = new CountDownLatch(3);
        for (int n = 0; n < 3; n++) {
            producer.send(message(topic, "async", "a" + n, "a" + n), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    check(result);
                    done.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    System.out.println("failed " + e);
                }
            });
        }
        done.await();
        for (int n = 0; n < 5; n++) {
            check(producer.send(message(topic, "sharded", "s" + n, "same"), new SelectMessageQueueByHash(), "key"));
        }
        producer.sendOneway(message(topic, "oneway", "o", "one way"));
        // It goes over the same connection: once it is answered, the one-way message has left.
        check(producer.send(message(topic, "last", "l", "last")));
        producer.shutdown();
        System.out.println("mixture sent");
    }

    /** Starts a consumer for each NAME|GROUP|MODEL|TYPE|EXPRESSION, until its input ends. */
    private static void read(String[] args) throws Exception {
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        for (int at = 3; at < args.length; at++) {
            String[] reader = args[at].split("\\|", 5);
            DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(reader[1]);
            consumer.setNamesrvAddr(args[1]);
            consumer.setInstanceName(reader[0]);
            consumer.setMessageModel(
                Enum.valueOf(consumer.getMessageModel().getDeclaringClass(), reader[2]));
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            consumer.subscribe(args[2],
                reader[3].equals("TAG") ? MessageSelector.byTag(reader[4]) : MessageSelector.bySql(reader[4]));
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                print(reader[0], messages);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
            consumers.add(consumer);
        }
        System.out.println("started");
        while (System.in.read() >= 0) {
            // The lab closes our input when it has seen enough.
        }
        for (DefaultMQPushConsumer consumer : consumers) {
            consumer.shutdown();
        }
    }

    private static void pull(String nameServers, String group, String topic, int count) throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group);
        consumer.setNamesrvAddr(nameServers);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.start();
        for (int got = 0; got < count;) {
            List<MessageExt> messages = consumer.poll(1_000);
            print("pull", messages);
            got += messages.size();
        }
        consumer.commitSync();
        consumer.shutdown();
    }

    private static void print(String name, List<MessageExt> messages) {
        StringBuilder lines = new StringBuilder();
        for (MessageExt message : messages) {
            lines.append(name).append(' ').append(message.getQueueId()).append(' ').append(message.getQueueOffset())
                .append(' ').append(new String(message.getBody(), StandardCharsets.UTF_8)).append('\n');
        }
        synchronized (System.out) {
            System.out.print(lines);
            System.out.flush();
        }
    }
}

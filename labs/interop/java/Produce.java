import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;

/**
 * Sends COUNT messages with the keys key-0, key-1, ... and says how many were stored.
 *
 * Produce NAMESRV TOPIC COUNT [NAME=VALUE ...]
 *
 *   threads=N      how many threads send (default 4)
 *   kind=ordered   message N is a step of one of `keys` orders, goes to the queue of that order, and says
 *                  "order-ORDER:STEP"; one thread
 *   kind=delayed   message N has one of the delay levels in `levels=1,2,...`, and says "LEVEL:NUMBER"
 *   kind=request   waits `millis` for the reply to each message, and prints it: "reply BODY"; one thread
 *   form=callback  kind=request with a callback and a queue chosen by hash (the blocking form of 5.3.3 does not work)
 */
public class Produce {
    private static final AtomicInteger next = new AtomicInteger();
    private static final AtomicInteger stored = new AtomicInteger();
    private static String topic;
    private static int count;
    private static Options options;
    private static DefaultMQProducer producer;

    public static void main(String[] args) throws Exception {
        topic = args[1];
        count = Integer.parseInt(args[2]);
        options = new Options(args, 3);
        String kind = options.text("kind", "plain");
        int threads = kind.equals("ordered") || kind.equals("request") ? 1 : options.number("threads", 4);

        producer = new DefaultMQProducer("JavaProducers");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        CountDownLatch done = new CountDownLatch(threads);
        for (int t = 0; t < threads; t++) {
            new Thread(() -> {
                for (int number = next.getAndIncrement(); number < count; number = next.getAndIncrement()) {
                    try {
                        send(kind, number);
                    } catch (Exception e) {
                        Options.print("failed key-" + number + " " + e);
                    }
                }
                done.countDown();
            }).start();
        }
        done.await();
        producer.shutdown();
        Options.print("stored " + stored.get());
        System.exit(0);
    }

    private static void send(String kind, int number) throws Exception {
        Message message = new Message(topic, "TagA", "key-" + number, bytes("message " + number));
        switch (kind) {
            case "plain":
                note(producer.send(message));
                break;
            case "ordered":
                int keys = options.number("keys", 10);
                String order = "order-" + number % keys;
                message.setBody(bytes(order + ":" + number / keys));
                note(producer.send(message, new SelectMessageQueueByHash(), order));
                break;
            case "delayed":
                String[] levels = options.text("levels", "1").split(",");
                String level = levels[number % levels.length];
                message.setBody(bytes(level + ":" + number / levels.length));
                message.setDelayTimeLevel(Integer.parseInt(level));
                note(producer.send(message));
                break;
            case "request":
                ask(message);
                break;
            default:
                throw new IllegalArgumentException("kind=" + kind);
        }
    }

    private static void note(SendResult result) {
        if (result.getSendStatus() == SendStatus.SEND_OK) {
            stored.incrementAndGet();
        } else {
            Options.print("status " + result);
        }
    }

    private static void ask(Message message) throws Exception {
        long millis = options.number("millis", 10_000);
        if (!options.text("form", "").equals("callback")) {
            answered(producer.request(message, millis));
            return;
        }
        CountDownLatch came = new CountDownLatch(1);
        producer.request(message, new SelectMessageQueueByHash(), message.getKeys(), new RequestCallback() {
            @Override
            public void onSuccess(Message reply) {
                answered(reply);
                came.countDown();
            }

            @Override
            public void onException(Throwable e) {
                Options.print("failed " + message.getKeys() + " " + e);
                came.countDown();
            }
        }, millis);
        came.await();
    }

    private static void answered(Message reply) {
        Options.print("reply " + (reply == null ? "none" : new String(reply.getBody(), StandardCharsets.UTF_8)));
        stored.incrementAndGet();
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}

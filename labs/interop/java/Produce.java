import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

/** Sends COUNT messages with the keys key-0, key-1, ... from four threads, and says how many were stored. */
public class Produce {
    public static void main(String[] args) throws Exception {
        String nameServers = args[0];
        String topic = args[1];
        int count = Integer.parseInt(args[2]);
        int threads = 4;

        DefaultMQProducer producer = new DefaultMQProducer("JavaProducers");
        producer.setNamesrvAddr(nameServers);
        producer.start();

        AtomicInteger next = new AtomicInteger();
        AtomicInteger stored = new AtomicInteger();
        CountDownLatch done = new CountDownLatch(threads);
        for (int t = 0; t < threads; t++) {
            new Thread(() -> {
                for (int i = next.getAndIncrement(); i < count; i = next.getAndIncrement()) {
                    byte[] body = ("message " + i).getBytes(StandardCharsets.UTF_8);
                    try {
                        SendResult result = producer.send(new Message(topic, "TagA", "key-" + i, body));
                        if (result.getSendStatus() == SendStatus.SEND_OK) {
                            stored.incrementAndGet();
                        } else {
                            System.out.println("status " + result);
                        }
                    } catch (Exception e) {
                        System.out.println("failed key-" + i + " " + e);
                    }
                }
                done.countDown();
            }).start();
        }
        done.await();
        producer.shutdown();
        System.out.println("stored " + stored.get());
        System.exit(0);
    }
}

import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/**
 * Sends COUNT messages with the keys later-0, later-1, ... that are due in 2 to 6 seconds, in each of the three ways to
 * ask for it; then one more, which it takes back; then one that is due too late. Prints a line "KEY DUE" for each.
 */
public class ProduceLater {
    public static void main(String[] args) throws Exception {
        String nameServers = args[0];
        String topic = args[1];
        int count = Integer.parseInt(args[2]);

        DefaultMQProducer producer = new DefaultMQProducer("JavaProducersOfLater");
        producer.setNamesrvAddr(nameServers);
        producer.setSendMsgTimeout(20_000);
        producer.start();

        for (int i = 0; i < count; i++) {
            Message message = message(topic, "later-" + i);
            int seconds = 2 + i % 5;
            long now = System.currentTimeMillis();
            if (i % 3 == 0) {
                message.setDelayTimeSec(seconds);
            } else if (i % 3 == 1) {
                message.setDelayTimeMs(seconds * 1000L + 123);
            } else {
                message.setDeliverTimeMs(now + seconds * 1000L + 456);
            }
            SendResult result = producer.send(message);
            long due = now + seconds * 1000L + (i % 3 == 0 ? 0 : i % 3 == 1 ? 123 : 456);
            System.out.println("later-" + i + " " + due + " " + result.getSendStatus());
        }

        Message unwanted = message(topic, "unwanted");
        unwanted.setDelayTimeMs(8_000);
        SendResult sent = producer.send(unwanted);
        String recalled = producer.recallMessage(topic, sent.getRecallHandle());
        System.out.println("recalled " + recalled.equals(sent.getMsgId()));

        Message tooLate = message(topic, "too-late");
        tooLate.setDelayTimeSec(259_201);
        try {
            producer.send(tooLate);
            System.out.println("refused false");
        } catch (MQBrokerException e) {
            System.out.println("refused " + e.getResponseCode() + " " + e.getErrorMessage());
        }
        producer.shutdown();
        System.exit(0);
    }

    private static Message message(String topic, String key) {
        return new Message(topic, "TagA", key, ("body of " + key).getBytes(StandardCharsets.UTF_8));
    }
}

import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

/** Sends COUNT messages for each of the LEVELS that follow, with bodies "LEVEL:NUMBER", and says how many were stored. */
public class ProduceDelayed {
    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int count = Integer.parseInt(args[2]);
        DefaultMQProducer producer = new DefaultMQProducer("JavaDelayProducers");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        int stored = 0;
        for (int number = 0; number < count; number++) {
            for (int at = 3; at < args.length; at++) {
                byte[] body = (args[at] + ":" + number).getBytes(StandardCharsets.UTF_8);
                Message message = new Message(topic, "TagA", "key-" + args[at] + "-" + number, body);
                message.setDelayTimeLevel(Integer.parseInt(args[at]));
                SendResult result = producer.send(message);
                if (result.getSendStatus() == SendStatus.SEND_OK) {
                    stored++;
                } else {
                    System.out.println("status " + result);
                }
            }
        }
        producer.shutdown();
        System.out.println("stored " + stored);
        System.exit(0);
    }
}

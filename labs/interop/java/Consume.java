import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/** Consumes a topic and writes one line "QUEUE OFFSET KEY" for each message, until its input ends. */
public class Consume {
    public static void main(String[] args) throws Exception {
        String nameServers = args[0];
        String topic = args[1];
        String group = args[2];
        String instance = args[3];

        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(nameServers);
        consumer.setInstanceName(instance);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            StringBuilder lines = new StringBuilder();
            for (MessageExt message : messages) {
                lines.append(message.getQueueId()).append(' ').append(message.getQueueOffset()).append(' ')
                    .append(message.getKeys()).append('\n');
            }
            synchronized (System.out) {
                System.out.print(lines);
                System.out.flush();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        System.out.println("started");
        while (System.in.read() >= 0) {
            // The lab closes our input when it has seen enough.
        }
        consumer.shutdown();
        System.out.println("stopped");
        System.exit(0);
    }
}

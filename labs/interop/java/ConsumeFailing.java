import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/** Fails for messages whose key begins with a word; writes a line "KEY TRIES TOPIC" for each call, until its input ends. */
public class ConsumeFailing {
    private static String bad;

    public static void main(String[] args) throws Exception {
        String nameServers = args[0];
        String topic = args[1];
        String group = args[2];
        int limit = Integer.parseInt(args[3]);
        bad = args[4];
        boolean isOrderly = args[5].equals("orderly");

        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(nameServers);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setMaxReconsumeTimes(limit);
        consumer.setSuspendCurrentQueueTimeMillis(200);
        // A new group's retry topic is found with a refresh of routes, by default 30 s later.
        consumer.setPollNameServerInterval(1000);
        consumer.subscribe(topic, "*");
        if (isOrderly) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) ->
                handle(messages) ? ConsumeOrderlyStatus.SUCCESS : ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT);
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) ->
                handle(messages) ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER);
        }
        consumer.start();
        System.out.println("started");
        while (System.in.read() >= 0) {
            // The lab closes our input when it has seen enough.
        }
        consumer.shutdown();
        System.exit(0);
    }

    private static synchronized boolean handle(List<MessageExt> messages) {
        MessageExt message = messages.get(0);
        System.out.println(message.getKeys() + " " + message.getReconsumeTimes() + " " + message.getTopic());
        System.out.flush();
        return !message.getKeys().startsWith(bad);
    }
}

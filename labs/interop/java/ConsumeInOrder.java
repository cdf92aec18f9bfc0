import java.util.HashSet;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/** Consumes in order; each message takes MILLIS, the first one of each queue fails once; one line for each success. */
public class ConsumeInOrder {
    public static void main(String[] args) throws Exception {
        int millis = Integer.parseInt(args[4]);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(args[2]);
        consumer.setNamesrvAddr(args[0]);
        consumer.setInstanceName(args[3]);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setSuspendCurrentQueueTimeMillis(200);
        consumer.subscribe(args[1], "*");
        Set<Integer> failed = new HashSet<>();
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            MessageExt message = messages.get(0);
            long begin = System.currentTimeMillis();
            try {
                Thread.sleep(millis);
            } catch (InterruptedException e) {
                return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
            }
            synchronized (failed) {
                if (failed.add(message.getQueueId())) {
                    return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                }
            }
            String line = message.getQueueId() + " " + new String(message.getBody()) + " " + begin + " "
                + System.currentTimeMillis();
            synchronized (System.out) {
                System.out.println(line);
                System.out.flush();
            }
            return ConsumeOrderlyStatus.SUCCESS;
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

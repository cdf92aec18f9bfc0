import java.nio.charset.StandardCharsets;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Consumes a topic and writes one line for each message that it handled, until its input ends.
 *
 * Consume NAMESRV TOPIC GROUP INSTANCE [NAME=VALUE ...]
 *
 *   tags=EXPRESSION  only messages with these tags
 *   mode=orderly     in order (else any number at a time)
 *   millis=N         how long a message takes
 *   fail=first       the first message of each queue fails once
 *   fail=N           every message fails N times
 *   times=N          the consumer's limit of retries
 *   print=A,B        what a line says: queue, offset, key, body, times (retries), level (of delay), begin, end
 *                    (milliseconds since 1970), waited (milliseconds from the send to the topic)
 *   reply=PREFIX     answer each message, a request, with PREFIX and its body
 */
public class Consume {
    private static Options options;
    private static DefaultMQProducer replier;
    private static final Set<Integer> failed = new HashSet<>();

    public static void main(String[] args) throws Exception {
        options = new Options(args, 4);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(args[2]);
        consumer.setNamesrvAddr(args[0]);
        consumer.setInstanceName(args[3]);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setSuspendCurrentQueueTimeMillis(200);
        consumer.setMaxReconsumeTimes(options.number("times", -1));
        consumer.subscribe(args[1], options.text("tags", "*"));
        if (options.text("mode", "").equals("orderly")) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) ->
                handle(messages) ? ConsumeOrderlyStatus.SUCCESS : ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT);
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) ->
                handle(messages) ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER);
        }
        if (options.text("reply", null) != null) {
            replier = new DefaultMQProducer("JavaRepliers");
            replier.setNamesrvAddr(args[0]);
            replier.setInstanceName(args[3] + "-replies");
            replier.start();
        }
        consumer.start();
        Options.print("started");
        Options.waitForEnd();
        consumer.shutdown();
        if (replier != null) {
            replier.shutdown();
        }
        Options.print("stopped");
        System.exit(0);
    }

    private static boolean handle(List<MessageExt> messages) {
        for (MessageExt message : messages) {
            long begin = System.currentTimeMillis();
            try {
                Thread.sleep(options.number("millis", 0));
                if (fails(message)) {
                    return false;
                }
                if (replier != null) {
                    byte[] body = (options.text("reply", "") + new String(message.getBody(), StandardCharsets.UTF_8))
                        .getBytes(StandardCharsets.UTF_8);
                    replier.send(MessageUtil.createReplyMessage(message, body), 10_000);
                }
            } catch (Exception e) {
                Options.print("failed " + e);
                return false;
            }
            Options.print(line(message, begin));
        }
        return true;
    }

    private static boolean fails(MessageExt message) {
        String fail = options.text("fail", "0");
        if (!fail.equals("first")) {
            return message.getReconsumeTimes() < Integer.parseInt(fail);
        }
        synchronized (failed) {
            return failed.add(message.getQueueId());
        }
    }

    private static String line(MessageExt message, long begin) {
        StringBuilder line = new StringBuilder();
        for (String what : options.text("print", "queue,offset,key").split(",")) {
            line.append(line.length() == 0 ? "" : " ");
            switch (what) {
                case "queue": line.append(message.getQueueId()); break;
                case "offset": line.append(message.getQueueOffset()); break;
                case "key": line.append(message.getKeys()); break;
                case "body": line.append(new String(message.getBody(), StandardCharsets.UTF_8)); break;
                case "level": line.append(message.getDelayTimeLevel()); break;
                case "waited": line.append(message.getStoreTimestamp() - message.getBornTimestamp()); break;
                case "begin": line.append(begin); break;
                case "end": line.append(System.currentTimeMillis()); break;
                case "times": line.append(message.getReconsumeTimes()); break;
                default: throw new IllegalArgumentException("print=" + what);
            }
        }
        return line.toString();
    }
}

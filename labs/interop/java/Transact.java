import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Sends each of BODIES in a transaction, then answers checks until its standard input ends.
 *
 * A body says how its transaction ends: "commit...", "rollback...", or "unknown-commit..." and "unknown-rollback...",
 * which are known to a check only.
 */
public class Transact {
    public static void main(String[] args) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer(args[2]);
        producer.setNamesrvAddr(args[0]);
        producer.setInstanceName(args[3]);
        producer.setSendMsgTimeout(20000);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return state(new String(message.getBody(), StandardCharsets.UTF_8));
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                String body = new String(message.getBody(), StandardCharsets.UTF_8);
                System.out.println("checked " + body + " " + message.getTopic() + " " + message.getTransactionId());
                return state(body.replace("unknown-", ""));
            }
        });
        producer.start();
        for (int i = 4; i < args.length; i++) {
            Message message = new Message(args[1], "t", "k-" + args[i], args[i].getBytes(StandardCharsets.UTF_8));
            TransactionSendResult result = producer.sendMessageInTransaction(message, null);
            System.out.println(args[i] + " " + result.getSendStatus() + " " + result.getLocalTransactionState());
        }
        System.out.println("sent");
        while (System.in.read() >= 0) {
            continue;
        }
        producer.shutdown();
        System.exit(0);
    }

    private static LocalTransactionState state(String body) {
        if (body.startsWith("unknown")) {
            return LocalTransactionState.UNKNOW;
        }
        return body.startsWith("commit") ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
    }
}

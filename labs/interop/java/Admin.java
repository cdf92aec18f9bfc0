import java.io.BufferedReader;
import java.io.InputStreamReader;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/** Runs the mqadmin command of each line of its input (words between tabs), and prints "== done" after each. */
public class Admin {
    public static void main(String[] args) throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            MQAdminStartup.main0(line.split("\t"), null);
            System.out.println();
            System.out.println("== done");
            System.out.flush();
        }
        System.exit(0);
    }
}

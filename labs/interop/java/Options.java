import java.util.HashMap;
import java.util.Map;

/** Arguments of the form NAME=VALUE, behind those that have a place. */
final class Options {
    private final Map<String, String> values = new HashMap<>();

    Options(String[] arguments, int from) {
        for (int i = from; i < arguments.length; i++) {
            int at = arguments[i].indexOf('=');
            values.put(arguments[i].substring(0, at), arguments[i].substring(at + 1));
        }
    }

    String text(String name, String otherwise) {
        return values.getOrDefault(name, otherwise);
    }

    int number(String name, int otherwise) {
        return Integer.parseInt(values.getOrDefault(name, Integer.toString(otherwise)));
    }

    /** Print one line at once, whichever thread says it. */
    static void print(String line) {
        synchronized (System.out) {
            System.out.println(line);
            System.out.flush();
        }
    }

    /** Wait until the lab closes our input, which it does when it has seen enough. */
    static void waitForEnd() throws java.io.IOException {
        while (System.in.read() >= 0) {
            continue;
        }
    }
}

package maxine.client;

import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * Measures a choice among 10 instances, with its end: the fastest of 20 rounds after warming up. No test.
 * {@code java -cp target/classes:target/test-classes maxine.client.ChooseBenchmark}
 */
final class ChooseBenchmark {
    private static final int ROUNDS = 20;
    private static final int CHOICES = 200_000;

    private ChooseBenchmark() {
    }

    public static void main(String[] arguments) throws Exception {
        for (String strategy : List.of("round_robin", "least_request", "rendezvous", "consistent_hash")) {
            HttpServer node = node(strategy);
            try (MaxineClient client = new MaxineClient("http://127.0.0.1:" + node.getAddress().getPort())) {
                Resolver resolver = client.resolver("orders", null);
                Request request = Request.of("customer-4711");
                long best = Long.MAX_VALUE;
                for (int round = 0; round < ROUNDS; round++) {
                    long begun = System.nanoTime();
                    for (int n = 0; n < CHOICES; n++) {
                        resolver.choose(request).close();
                    }
                    best = Math.min(best, System.nanoTime() - begun);
                }
                System.out.printf("%s: %d ns%n", strategy, best / CHOICES);
            } finally {
                node.stop(0);
            }
        }
    }

    /** A node with a service of 10 instances. It has no watch. */
    private static HttpServer node(String strategy) throws java.io.IOException {
        String items = IntStream.range(0, 10)
            .mapToObj(n -> "{\"id\": \"instance-" + n + "\", \"address\": \"http://10.0.0." + n + ":80\", \"weight\": 1}")
            .collect(Collectors.joining(","));
        HttpServer node = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        node.createContext("/", exchange -> {
            String path = exchange.getRequestURI().getPath();
            String body = path.endsWith("/instances") ? "{\"items\": [" + items + "], \"next_cursor\": null}"
                : "{\"strategy\": \"" + strategy + "\", \"policy\": null}";
            exchange.getResponseHeaders().set("x-maxine-history", "1");
            exchange.getResponseHeaders().set("x-maxine-index", "1");
            boolean known = !path.endsWith("/watch");
            exchange.sendResponseHeaders(known ? 200 : 503, known ? body.length() : -1);
            if (known) {
                exchange.getResponseBody().write(body.getBytes());
            }
            exchange.close();
        });
        node.start();
        return node;
    }
}

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import maxine.client.ClientCredentials;
import maxine.client.Instance;
import maxine.client.MaxineClient;
import maxine.client.Registration;
import maxine.client.Resolver;

/** The part of a client in `scripts/sdks.py faults`: registers itself, calls the targets, and prints what it sees. */
final class Faults {
    private static volatile boolean stopping;

    private static synchronized void tell(List<Instance> instances) {
        String ids = instances.stream().map(Instance::id).collect(Collectors.joining(","));
        System.out.println("change " + System.currentTimeMillis() + " " + ids);
    }

    public static void main(String[] arguments) throws Exception {
        AtomicInteger errors = new AtomicInteger();
        MaxineClient.Options options = MaxineClient.Options.DEFAULT.withOnError(error -> errors.incrementAndGet());
        String issuer = System.getenv("MAXINE_TEST_ISSUER");
        if (issuer != null) { // The tokens of this client are valid for 10 s.
            options = options.withCredentials(ClientCredentials.builder("worker").issuer(issuer)
                .clientSecretEnv("MAXINE_TEST_SECRET").resource("https://maxine.test/").build());
        }
        MaxineClient client = new MaxineClient(List.of(System.getenv("MAXINE_SERVER").split(",")), options);
        Registration kept = client.register("workers", "java", "http://127.0.0.1:1", Map.of("ttl_ms", 3_000L));
        Resolver targets = client.resolver("targets", null);
        targets.onChange(Faults::tell);
        tell(targets.instances());
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            try {
                main.join();
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
        }));
        HttpClient http = HttpClient.newHttpClient();
        int calls = 0;
        int failed = 0;
        long ageMaxMs = 0;
        while (!stopping) {
            calls++;
            ageMaxMs = Math.max(ageMaxMs, targets.age().toMillis());
            try (Resolver.Chosen chosen = targets.choose()) {
                HttpRequest request = HttpRequest.newBuilder(URI.create(chosen.address())).timeout(Duration.ofSeconds(5)).build();
                http.send(request, HttpResponse.BodyHandlers.ofString());
            } catch (java.io.IOException | NullPointerException error) {
                failed++;
            }
            Thread.sleep(10);
        }
        client.close();
        long began = System.nanoTime();
        for (int n = 0; n < 100_000; n++) {
            targets.choose().close();
        }
        System.out.printf("{\"calls\": %d, \"failed\": %d, \"ageMaxMs\": %d, \"chooseNs\": %d, \"renewals\": %d, \"errors\": %d}%n",
            calls, failed, ageMaxMs, (System.nanoTime() - began) / 100_000, kept.renewals(), errors.get());
    }
}

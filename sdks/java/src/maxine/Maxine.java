package maxine;

import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpTimeoutException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.function.Predicate;
import java.util.stream.Stream;

/**
 * A client of Maxine with nothing but the JDK (17 and newer). It registers a service and keeps it registered, finds
 * instances of others, calls them through the proxy, and watches for changes. If a node
 * cannot be reached, it uses the next one of the given nodes. It may be used by several threads.
 */
public final class Maxine {
    private static final String CONFIG = "/api/maxine/control/config";
    private static final Duration TIMEOUT = Duration.ofSeconds(10);

    private final HttpClient http =
        HttpClient.newBuilder().followRedirects(HttpClient.Redirect.NEVER).connectTimeout(TIMEOUT).build();
    private final List<String> nodes;
    private final AtomicInteger at = new AtomicInteger();
    private volatile String token;

    /** A client of the nodes at these addresses, such as {@code http://127.0.0.1:8080}. */
    public Maxine(String... nodes) {
        this.nodes = Arrays.stream(nodes).map(node -> node.replaceAll("/+$", "")).toList();
    }

    private <T> HttpResponse<T> send(
            String method, String path, String body, Map<String, String> headers, HttpResponse.BodyHandler<T> as)
            throws IOException, InterruptedException {
        for (int tries = 1;; tries++) {
            int used = at.get();
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(nodes.get(used % nodes.size()) + path));
            if (token != null) {
                request.setHeader("authorization", "Bearer " + token);
            }
            headers.forEach(request::setHeader);
            request.method(method, body == null
                ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofString(body));
            try {
                return within(http.sendAsync(request.timeout(TIMEOUT).build(), as));
            } catch (IOException error) {
                if (tries >= nodes.size()) {
                    throw error;
                }
                at.compareAndSet(used, used + 1);
            }
        }
    }

    /**
     * Waits for an answer for a limited time. The time limit of a request covers only the head of the answer; this one
     * covers the body too.
     */
    private static <T> HttpResponse<T> within(CompletableFuture<HttpResponse<T>> answer)
            throws IOException, InterruptedException {
        try {
            return answer.get(TIMEOUT.toMillis(), TimeUnit.MILLISECONDS);
        } catch (ExecutionException error) {
            throw error.getCause() instanceof IOException cause ? cause : new IOException(error.getCause());
        } catch (TimeoutException error) {
            throw new HttpTimeoutException("no complete answer within " + TIMEOUT.toSeconds() + " s");
        } finally {
            // This ends a request whose answer nobody waits for any more.
            answer.cancel(true);
        }
    }

    /** Sends a request and returns the answer, whatever its status is. */
    public HttpResponse<String> send(String method, String path, String body, Map<String, String> headers)
            throws IOException, InterruptedException {
        return send(method, path, body, headers, HttpResponse.BodyHandlers.ofString());
    }

    @SuppressWarnings("unchecked")
    private Map<String, Object> json(String method, String path, Map<String, ?> body)
            throws IOException, InterruptedException {
        Map<String, String> headers = body == null ? Map.of() : Map.of("content-type", "application/json");
        HttpResponse<String> answer = send(method, path, body == null ? null : Json.write(body), headers);
        if (answer.statusCode() >= 300) {
            throw errorOf(answer.statusCode(), answer.body());
        }
        return (Map<String, Object>) Json.read(answer.body());
    }

    private static MaxineException errorOf(int status, String text) {
        String message = text;
        try {
            if (Json.read(text) instanceof Map<?, ?> body) {
                Object told = body.get("message") == null ? body.get("detail") : body.get("message");
                message = String.valueOf(told);
            }
        } catch (IllegalArgumentException notJson) {
            // The text of the body is the message.
        }
        return new MaxineException(status, message);
    }

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
    }

    /** Signs in. Later requests are sent with the token. Returns the role. */
    public String signIn(String userName, String password) throws IOException, InterruptedException {
        Map<String, Object> answer =
            json("POST", "/api/maxine/signin", Map.of("userName", userName, "password", password));
        token = (String) answer.get("accessToken");
        return (String) answer.get("role");
    }

    /** Registers once. hostName, nodeName and serviceName are required. Returns the stored registration. */
    public Map<String, Object> register(Map<String, ?> registration) throws IOException, InterruptedException {
        return json("POST", "/api/maxine/serviceops/register", registration);
    }

    /**
     * Registers, and repeats the registration twice within each timeOut until the result is closed. {@code beat} is
     * called after every repetition, with null or with the error.
     */
    public AutoCloseable keepRegistered(Map<String, ?> registration, Consumer<Exception> beat)
            throws IOException, InterruptedException {
        long intervalMs = intervalMs(register(registration));
        ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor(task -> {
            Thread thread = new Thread(task, "maxine-heartbeat");
            thread.setDaemon(true);
            return thread;
        });
        Runnable heartbeat = () -> heartbeat(registration, beat);
        timer.scheduleAtFixedRate(heartbeat, intervalMs, intervalMs, TimeUnit.MILLISECONDS);
        return () -> {
            timer.shutdownNow();
            timer.awaitTermination(TIMEOUT.toMillis(), TimeUnit.MILLISECONDS);
        };
    }

    /** Throws nothing, because an exception would end the heartbeats. */
    private void heartbeat(Map<String, ?> registration, Consumer<Exception> beat) {
        Exception failure = null;
        try {
            intervalMs(register(registration));
        } catch (InterruptedException closed) {
            Thread.currentThread().interrupt();
            return;
        } catch (IOException | RuntimeException error) {
            failure = error;
            if (!(error instanceof MaxineException)) {
                // The node gives no usable answer, so the next request goes to another one.
                at.incrementAndGet();
            }
        }
        try {
            beat.accept(failure);
        } catch (RuntimeException error) {
            Thread thread = Thread.currentThread();
            thread.getUncaughtExceptionHandler().uncaughtException(thread, error);
        }
    }

    /** Half of the time that a registration lives without a heartbeat. */
    private static long intervalMs(Map<String, Object> registered) throws IOException {
        Object timeOut = registered == null ? null : registered.get("timeOut");
        if (timeOut instanceof Number seconds && seconds.longValue() > 0) {
            return seconds.longValue() * 500;
        }
        throw new IOException("the answer is not a registration");
    }

    /** The URL of an instance, with an end point appended (empty for none). */
    public String discover(String serviceName, String endPoint) throws IOException, InterruptedException {
        String query = "?serviceName=" + encoded(serviceName);
        query += endPoint.isEmpty() ? "" : "&endPoint=" + encoded(endPoint);
        HttpResponse<String> answer = send("GET", "/api/maxine/serviceops/discover" + query, null, Map.of());
        if (answer.statusCode() != 302) {
            throw errorOf(answer.statusCode(), answer.body());
        }
        return answer.headers().firstValue("location").orElseThrow();
    }

    /** Sends a request to an instance through Maxine's proxy. */
    public HttpResponse<String> call(
            String serviceName, String method, String path, String body, Map<String, String> headers)
            throws IOException, InterruptedException {
        if (serviceName.isEmpty() || serviceName.equals(".") || serviceName.equals("..")) {
            // In a URL these names mean another path.
            throw new IllegalArgumentException("\"" + serviceName + "\" cannot be a service's name");
        }
        return send(method, "/api/maxine/serviceops/proxy/" + encoded(serviceName) + path, body, headers);
    }

    /** The whole registry. Needs the role viewer. */
    public Map<String, Object> servers() throws IOException, InterruptedException {
        return json("GET", "/api/maxine/serviceops/servers", null);
    }

    /** The configuration. Needs the role viewer. */
    public Map<String, Object> config() throws IOException, InterruptedException {
        return json("GET", CONFIG, null);
    }

    /** Changes fields of the configuration, and returns the outcome for each. Needs the role operator. */
    public Map<String, Object> changeConfig(Map<String, ?> fields) throws IOException, InterruptedException {
        return json("PUT", CONFIG, fields);
    }

    /**
     * Passes the changes of one service to {@code tell}, without a gap, after an index (null: from now on), until
     * {@code tell} returns false. If changes are no longer available without a gap, the last change has the type
     * "compacted": read the present state, and watch again.
     */
    public void watch(String serviceName, Long index, Predicate<Map<String, Object>> tell)
            throws IOException, InterruptedException {
        String[] last = {index == null ? null : index.toString()};
        String path = "/api/v1/watch?service=" + encoded(serviceName);
        while (true) {
            Map<String, String> headers = last[0] == null ? Map.of() : Map.of("last-event-id", last[0]);
            try {
                HttpResponse<Stream<String>> answer =
                    send("GET", path, null, headers, HttpResponse.BodyHandlers.ofLines());
                try (Stream<String> lines = answer.body()) {
                    if (answer.statusCode() != 200) {
                        throw errorOf(answer.statusCode(), String.join("\n", lines.toList()));
                    }
                    if (!goesOn(lines.iterator(), last, tell)) {
                        return;
                    }
                }
            } catch (MaxineException error) {
                if (error.status < 500 && error.status != 429) {
                    throw error;
                }
            } catch (IOException | java.io.UncheckedIOException error) {
                // The next connection continues after the last change.
            }
            Thread.sleep(500);
        }
    }

    /** Reads one stream to its end. Returns whether another one should follow. */
    @SuppressWarnings("unchecked")
    private static boolean goesOn(Iterator<String> lines, String[] last, Predicate<Map<String, Object>> tell) {
        Map<String, String> fields = new HashMap<>();
        while (lines.hasNext()) {
            String line = lines.next();
            int colon = line.indexOf(": ");
            if (colon >= 0) {
                fields.put(line.substring(0, colon), line.substring(colon + 2));
            }
            if (!line.isEmpty()) {
                continue;
            }
            last[0] = fields.getOrDefault("id", last[0]);
            String event = fields.getOrDefault("event", "ready");
            if (!event.equals("ready")) {
                Map<String, Object> change = new LinkedHashMap<>((Map<String, Object>) Json.read(fields.get("data")));
                change.put("type", event);
                if (!tell.test(change) || event.equals("compacted")) {
                    return false;
                }
            }
            fields.clear();
        }
        return true;
    }
}

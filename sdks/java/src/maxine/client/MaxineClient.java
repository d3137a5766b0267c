package maxine.client;

import java.io.IOException;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.Consumer;

/**
 * A client of the nodes of one cluster on the native API: it keeps instances registered, and chooses instances of other
 * services from a cache that a watch keeps. It needs only the JDK (17 and newer), and may be used by several threads.
 */
public final class MaxineClient implements AutoCloseable {
    /**
     * The settings of a client. {@link #DEFAULT} has none set; each method {@code with...} gives a changed copy.
     *
     * @param namespace the namespace of all services
     * @param token a session token or an API token, or null
     * @param tokenFile a file with the token, which is read for each request, or null
     * @param credentials fetches tokens from an OpenID provider instead, or null
     * @param caFile the certificates that {@code https} nodes are checked with, or null for those of the JDK
     * @param timeout the time for a call with all its attempts
     * @param attemptTimeout the time for one attempt
     * @param onError gets the errors of the work in the background
     * @param onAttempt gets each request to a node, when its answer has begun or it has failed; null for nobody
     * @param onCall gets each use of an instance, from its choice to the end of the request; null for nobody
     * @param tracer begins and ends spans; null for none
     */
    public record Options(String namespace, String token, Path tokenFile, ClientCredentials credentials, Path caFile,
            Duration timeout, Duration attemptTimeout, Consumer<Exception> onError, Consumer<Attempt> onAttempt, Consumer<Call> onCall,
            Tracer tracer) {
        /** The settings if nothing is set. */
        public static final Options DEFAULT =
            new Options("default", null, null, null, null, Duration.ofSeconds(10), Duration.ofSeconds(3), error -> { }, null, null, null);

        public Options withNamespace(String value) {
            return new Options(value, token, tokenFile, credentials, caFile, timeout, attemptTimeout, onError, onAttempt, onCall, tracer);
        }

        public Options withToken(String value) {
            return new Options(namespace, value, tokenFile, credentials, caFile, timeout, attemptTimeout, onError, onAttempt, onCall, tracer);
        }

        public Options withTokenFile(Path value) {
            return new Options(namespace, token, value, credentials, caFile, timeout, attemptTimeout, onError, onAttempt, onCall, tracer);
        }

        public Options withCredentials(ClientCredentials value) {
            return new Options(namespace, token, tokenFile, value, caFile, timeout, attemptTimeout, onError, onAttempt, onCall, tracer);
        }

        public Options withCaFile(Path value) {
            return new Options(namespace, token, tokenFile, credentials, value, timeout, attemptTimeout, onError, onAttempt, onCall, tracer);
        }

        public Options withTimeout(Duration value) {
            return new Options(namespace, token, tokenFile, credentials, caFile, value, attemptTimeout, onError, onAttempt, onCall, tracer);
        }

        public Options withAttemptTimeout(Duration value) {
            return new Options(namespace, token, tokenFile, credentials, caFile, timeout, value, onError, onAttempt, onCall, tracer);
        }

        public Options withOnError(Consumer<Exception> value) {
            return new Options(namespace, token, tokenFile, credentials, caFile, timeout, attemptTimeout, value, onAttempt, onCall, tracer);
        }

        public Options withOnAttempt(Consumer<Attempt> value) {
            return new Options(namespace, token, tokenFile, credentials, caFile, timeout, attemptTimeout, onError, value, onCall, tracer);
        }

        public Options withOnCall(Consumer<Call> value) {
            return new Options(namespace, token, tokenFile, credentials, caFile, timeout, attemptTimeout, onError, onAttempt, value, tracer);
        }

        public Options withTracer(Tracer value) {
            return new Options(namespace, token, tokenFile, credentials, caFile, timeout, attemptTimeout, onError, onAttempt, onCall, value);
        }
    }

    /**
     * One request to a node.
     *
     * @param status the status of the answer; 0 if there was none
     * @param error why there was no answer, or null
     */
    public record Attempt(String node, String method, String path, int status, Duration duration, Exception error) {
    }

    /** The use of an instance, from its choice until {@link Resolver.Chosen} is closed or has failed. */
    public record Call(String service, String instance, Duration duration, boolean failed) {
    }

    final Nodes nodes;
    final Options options;
    private final List<Registration> kept = new CopyOnWriteArrayList<>();
    private final List<Resolver> resolvers = new CopyOnWriteArrayList<>();
    private Thread beating;
    private volatile boolean closed;

    /** A client of the nodes at these addresses, such as {@code http://10.0.0.1:8080}. */
    public MaxineClient(List<String> nodes, Options options) throws IOException {
        this.nodes = new Nodes(nodes, options);
        this.options = options;
    }

    /** A client with the default settings. */
    public MaxineClient(String... nodes) throws IOException {
        this(List.of(nodes), Options.DEFAULT);
    }

    /** Passes an error to {@code onError}, whose own errors must not end the work in the background. */
    void report(Exception error) {
        try {
            options.onError().accept(error);
        } catch (RuntimeException own) {
            own.printStackTrace();
        }
    }

    /** Calls a hook, whose own errors must not end the work. */
    static <T> void tell(Consumer<T> hook, T event) {
        try {
            hook.accept(event);
        } catch (RuntimeException own) {
            own.printStackTrace();
        }
    }

    /** Begins a span; null if there is no tracer. */
    Tracer.Span begin(Tracer.Traced about) {
        return begin(options.tracer(), about);
    }

    static Tracer.Span begin(Tracer tracer, Tracer.Traced about) {
        try {
            return tracer == null ? null : tracer.start(about);
        } catch (RuntimeException own) {
            own.printStackTrace();
            return null;
        }
    }

    static void end(Tracer.Span span, Tracer.Outcome outcome) {
        if (span != null) {
            tell(span::end, outcome);
        }
    }

    static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
    }

    String path(String service, String... rest) {
        List<String> parts = new ArrayList<>(List.of("services", options.namespace(), service));
        parts.addAll(List.of(rest));
        StringBuilder path = new StringBuilder("/api/v1");
        for (String part : parts) {
            if (part.isEmpty() || part.equals(".") || part.equals("..")) { // In a URL these names mean another path.
                throw new IllegalArgumentException('"' + part + "\" cannot be a name");
            }
            path.append('/').append(encoded(part));
        }
        return path.toString();
    }

    /**
     * Registers an instance, and keeps it registered until it or this client is closed.
     *
     * @param body further fields of the API, such as {@code weight}, {@code zone} and {@code ttl_ms} (10,000 by default)
     */
    public Registration register(String service, String instance, String address, Map<String, ?> body)
            throws IOException, InterruptedException {
        Map<String, Object> whole = new HashMap<>(Map.of("ttl_ms", 10_000L));
        whole.putAll(body);
        whole.put("address", address);
        Registration registration = new Registration(this, service, instance, whole);
        registration.renew();
        kept.add(registration);
        synchronized (this) {
            if (beating == null) {
                beating = new Thread(this::beat, "maxine-heartbeats");
                beating.setDaemon(true);
                beating.start();
            }
        }
        return registration;
    }

    private void beat() {
        while (!closed) {
            try {
                Thread.sleep(intervalMs());
                List<Registration> all = List.copyOf(kept);
                for (int at = 0; at < all.size(); at += 1000) {
                    beatOnce(all.subList(at, Math.min(all.size(), at + 1000)));
                }
            } catch (InterruptedException error) {
                return;
            } catch (IOException | RuntimeException error) {
                if (!closed) {
                    report(error); // Nothing may end the heartbeats.
                }
            }
        }
    }

    private long intervalMs() {
        return kept.stream().mapToLong(Registration::ttlMs).min().orElse(10_000) / 3;
    }

    /** Sends the heartbeats of registrations together, and registers again what the cluster has lost. */
    private void beatOnce(List<Registration> some) throws IOException, InterruptedException {
        List<Object> items = new ArrayList<>();
        for (Registration one : some) {
            items.add(Map.of("namespace", options.namespace(), "service", one.service, "id", one.instance));
        }
        Duration timeout = Duration.ofMillis(Math.max(1_000, 2 * intervalMs()));
        Map<String, Object> answer = nodes.json("POST", "/api/v1/heartbeats", Map.of("items", items), timeout).object();
        some.forEach(one -> one.beats.incrementAndGet());
        for (Object at : (List<?>) answer.get("unknown")) {
            Registration lost = some.get(((Long) at).intValue());
            if (!lost.stopped.get()) {
                lost.renew();
                lost.renewals.incrementAndGet();
            }
        }
    }

    /** A cache of the instances of a service, when they were read for the first time. {@code zone} may be null. */
    public Resolver resolver(String service, String zone) throws IOException, InterruptedException {
        Resolver resolver = new Resolver(this, service, zone);
        resolver.start();
        resolvers.add(resolver);
        return resolver;
    }

    /** The names of all services of the namespace. This needs a token with the role viewer. */
    public List<String> services() throws IOException, InterruptedException {
        List<String> names = new ArrayList<>();
        String cursor = "";
        while (cursor != null) {
            Map<String, Object> page = nodes.json("GET", "/api/v1/services?limit=1000&namespace=" + encoded(options.namespace())
                + (cursor.isEmpty() ? "" : "&cursor=" + encoded(cursor)), null, options.timeout()).object();
            for (Object item : (List<?>) page.get("items")) {
                names.add((String) ((Map<?, ?>) item).get("name"));
            }
            cursor = (String) page.get("next_cursor");
        }
        return names;
    }

    void forget(Registration registration) {
        kept.remove(registration);
    }

    /** Deregisters all instances, waits {@code drain} for the callers that still have them, and ends. */
    public void close(Duration drain) {
        boolean waits = !kept.isEmpty();
        for (Registration one : kept) {
            one.close();
        }
        try {
            Thread.sleep(waits ? drain.toMillis() : 0);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
        closed = true;
        synchronized (this) {
            if (beating != null) {
                beating.interrupt();
            }
        }
        resolvers.forEach(Resolver::close);
    }

    /** Deregisters all instances and ends. */
    @Override
    public void close() {
        close(Duration.ZERO);
    }

    /** Closes this client when the JVM is asked to end, for example by SIGTERM. */
    public MaxineClient closeAtShutdown(Duration drain) {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> close(drain), "maxine-shutdown"));
        return this;
    }
}

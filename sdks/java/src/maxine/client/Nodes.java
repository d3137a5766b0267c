package maxine.client;

import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpHeaders;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import maxine.Json;

/** Sends a request to one node after another, until one gives an answer that is not only a matter of the node. */
class Nodes {
    private static final double BACKOFF_MS = 50;
    private static final double BACKOFF_MAX_MS = 5_000;

    /** A node, and when it may be asked again. Guarded by the list of the nodes. */
    static final class Node {
        private final String url;
        private int failures;
        private long notBefore = System.nanoTime();

        private Node(String url) {
            this.url = url.replaceAll("/+$", "");
        }

        private long waitMs() {
            return Math.max(0, TimeUnit.NANOSECONDS.toMillis(notBefore - System.nanoTime() + 999_999));
        }
    }

    /** An answer whose body is read as JSON. */
    record Answer(Object json, HttpHeaders headers) {
        @SuppressWarnings("unchecked")
        Map<String, Object> object() {
            return (Map<String, Object>) json;
        }
    }

    /** An answer whose body has no end. */
    record Stream(InputStream body, Node node) {
    }

    private final List<Node> nodes;
    private final MaxineClient.Options options;
    private final HttpClient http;
    private int at;

    Nodes(List<String> addresses, MaxineClient.Options options) throws IOException {
        if (addresses.isEmpty()) {
            throw new IllegalArgumentException("at least one node is needed");
        }
        if (options.credentials() != null && (options.token() != null || options.tokenFile() != null)) {
            throw new IllegalArgumentException("either a token, a file with one or credentials: not two of them");
        }
        nodes = addresses.stream().map(Node::new).toList();
        this.options = options;
        HttpClient.Builder builder = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).connectTimeout(options.attemptTimeout());
        if (options.caFile() != null) {
            builder.sslContext(trusting(options.caFile()));
        }
        http = builder.build();
        // Clients that start together do not all begin with the same node.
        at = ThreadLocalRandom.current().nextInt(nodes.size());
    }

    /** TLS with the certificates of a file. */
    static SSLContext trusting(Path caFile) throws IOException {
        try (InputStream pem = Files.newInputStream(caFile)) {
            KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
            store.load(null);
            int number = 0;
            for (Certificate one : CertificateFactory.getInstance("X.509").generateCertificates(pem)) {
                store.setCertificateEntry("ca-" + number++, one);
            }
            TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            trust.init(store);
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(null, trust.getTrustManagers(), null);
            return context;
        } catch (GeneralSecurityException error) {
            throw new IOException(caFile + ": " + error.getMessage(), error);
        }
    }

    private Node pick() {
        synchronized (nodes) {
            Node best = null;
            for (int n = 0; n < nodes.size(); n++) {
                Node next = nodes.get((at + n) % nodes.size());
                best = best == null || next.waitMs() < best.waitMs() ? next : best;
            }
            return best;
        }
    }

    /** The node has answered: it is asked first from now on. */
    void worked(Node node) {
        synchronized (nodes) {
            at = nodes.indexOf(node);
            node.failures = 0;
            node.notBefore = System.nanoTime();
        }
    }

    /** The node is not asked again before a pause: that of Retry-After (in seconds, or -1), or a random one that grows. */
    void failed(Node node, long retryAfterS) {
        synchronized (nodes) {
            double random = ThreadLocalRandom.current().nextDouble();
            double limitMs = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * Math.pow(2, node.failures++));
            double pauseMs = retryAfterS < 0 ? limitMs * (0.5 + random / 2) : retryAfterS * 1_000 * (1 + random / 10);
            node.notBefore = System.nanoTime() + (long) (pauseMs * 1e6);
            at = (nodes.indexOf(node) + 1) % nodes.size();
        }
    }

    private HttpRequest request(Node node, String method, String path, Object body, String lastEventId, String fetched,
            Tracer.Span span) throws IOException {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(node.url + path));
        // Read each time, so that a replaced token is used at once.
        String token = options.tokenFile() == null ? options.token() : Files.readString(options.tokenFile()).strip();
        token = fetched == null ? token : fetched;
        if (token != null) {
            request.header("authorization", "Bearer " + token);
        }
        if (span != null) {
            span.headers().forEach(request::setHeader);
        }
        if (lastEventId != null) {
            request.header("last-event-id", lastEventId);
        }
        if (body != null) {
            request.header("content-type", "application/json");
        }
        return request.method(method, body == null
            ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofString(Json.write(body))).build();
    }

    /** The JSON of an answer below 300. */
    Answer json(String method, String path, Object body, Duration timeout) throws IOException, InterruptedException {
        Answer[] got = new Answer[1];
        open(method, path, body, null, timeout, HttpResponse.BodyHandlers.ofString(StandardCharsets.UTF_8), (answer, node) -> {
            try {
                got[0] = new Answer(answer.body().isEmpty() ? null : Json.read(answer.body()), answer.headers());
            } catch (IllegalArgumentException error) {
                throw new IOException(error.getMessage(), error);
            }
            worked(node);
        });
        return got[0];
    }

    /** An answer whose body has no end. */
    Stream stream(String path, String lastEventId) throws IOException, InterruptedException {
        Stream[] got = new Stream[1];
        open("GET", path, null, lastEventId, options.timeout(), HttpResponse.BodyHandlers.ofInputStream(),
            (answer, node) -> got[0] = new Stream(answer.body(), node));
        return got[0];
    }

    private interface Use<T> {
        void take(HttpResponse<T> answer, Node node) throws IOException;
    }

    private <T> void open(String method, String path, Object body, String lastEventId, Duration timeout,
            HttpResponse.BodyHandler<T> as, Use<T> use) throws IOException, InterruptedException {
        long deadline = System.nanoTime() + timeout.toNanos();
        // One node that does not answer may not use up the time in which another one would.
        long attemptMs = Math.min(options.attemptTimeout().toMillis(), timeout.toMillis() / 2);
        IOException last = null;
        while (true) {
            // That there is no token is no failure of a node.
            String token = options.credentials() == null ? null
                : options.credentials().token(Duration.ofNanos(deadline - System.nanoTime()));
            Node node = pick();
            long pauseMs = node.waitMs();
            long leftMs = TimeUnit.NANOSECONDS.toMillis(deadline - System.nanoTime()) - pauseMs;
            if (leftMs <= 0) {
                throw last != null ? last : new MaxineClientException(0, "no node has answered in time", null, null);
            }
            Thread.sleep(pauseMs);
            leftMs = Math.min(leftMs, attemptMs);
            Tracer.Span span = MaxineClient.begin(options.tracer(), new Tracer.NodeRequest(node.url, method, path));
            try {
                HttpRequest request = request(node, method, path, body, lastEventId, token, span);
                HttpResponse<T> answer = exchange(node, request, path, as, leftMs, span);
                if (answer.statusCode() < 300) {
                    use.take(answer, node);
                    return;
                }
                last = errorOf(answer);
                if (answer.statusCode() < 500 && answer.statusCode() != 429) {
                    worked(node);
                    if (answer.statusCode() == 401 && token != null && options.credentials().refused(token)) {
                        continue;
                    }
                    throw last;
                }
                failed(node, answer.headers().firstValue("retry-after").filter(text -> text.matches("\\d{1,6}")).map(Long::valueOf).orElse(-1L));
            } catch (MaxineClientException error) {
                throw error;
            } catch (TimeoutException error) {
                failed(node, -1);
                // That the time is over says less than the error before.
                last = last != null ? last : new MaxineClientException(0, node.url + ": no answer in time", null, error);
            } catch (IOException error) {
                failed(node, -1);
                last = new MaxineClientException(0, node.url + ": " + error, null, error);
            }
        }
    }

    private <T> HttpResponse<T> exchange(Node node, HttpRequest request, String path, HttpResponse.BodyHandler<T> as, long timeoutMs,
            Tracer.Span span) throws IOException, InterruptedException, TimeoutException {
        long begun = System.nanoTime();
        int status = 0;
        Exception failure = null;
        try {
            HttpResponse<T> answer = within(http.sendAsync(request, as), timeoutMs);
            status = answer.statusCode();
            return answer;
        } catch (IOException | TimeoutException error) {
            failure = error;
            throw error;
        } finally {
            MaxineClient.end(span, new Tracer.Outcome(status, failure, false));
            if (options.onAttempt() != null) {
                Duration duration = Duration.ofNanos(System.nanoTime() - begun);
                MaxineClient.tell(options.onAttempt(),
                    new MaxineClient.Attempt(node.url, request.method(), path, status, duration, failure));
            }
        }
    }

    /** Waits for an answer with its body, unless that is a stream. */
    static <T> HttpResponse<T> within(CompletableFuture<HttpResponse<T>> answer, long timeoutMs)
            throws IOException, InterruptedException, TimeoutException {
        try {
            return answer.get(timeoutMs, TimeUnit.MILLISECONDS);
        } catch (ExecutionException error) {
            throw error.getCause() instanceof IOException io ? io : new IOException(error.getCause());
        } finally {
            answer.cancel(true);
        }
    }

    @SuppressWarnings("unchecked")
    private static MaxineClientException errorOf(HttpResponse<?> answer) throws IOException {
        String text = answer.body() instanceof InputStream stream
            ? new String(stream.readAllBytes(), StandardCharsets.UTF_8) : (String) answer.body();
        try {
            if (Json.read(text) instanceof Map<?, ?> problem && problem.get("detail") instanceof String detail) {
                return new MaxineClientException(answer.statusCode(), detail, (Map<String, Object>) problem, null);
            }
        } catch (IllegalArgumentException error) {
            // Not JSON: the text is the message.
        }
        return new MaxineClientException(answer.statusCode(), text, null, null);
    }
}

package maxine.client;

import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import maxine.Json;

/**
 * Tokens of an OpenID provider by the grant {@code client_credentials} (RFC 6749, section 4.4). A token is kept until it is
 * about to expire. Several clients and threads may share one object. No error has the client's secret or a token in it.
 */
public final class ClientCredentials {
    private static final long ANSWER_MAX_MS = 5_000;
    private static final double BACKOFF_MS = 500;
    private static final double BACKOFF_MAX_MS = 30_000;
    /** In seconds, of a token whose answer does not say it. */
    private static final double LIFETIME_S = 60;
    private static final double RENEW_BEFORE_MAX_S = 60;

    /** The settings. A client id, an issuer or a token URL, and a place of the secret are needed. */
    public static final class Builder {
        private final String clientId;
        private String issuer;
        private String tokenUrl;
        private Path clientSecretFile;
        private String clientSecretEnv;
        private final Map<String, String> wanted = new LinkedHashMap<>();
        private Path caFile;
        private Consumer<Exception> onError = error -> { };

        private Builder(String clientId) {
            this.clientId = clientId;
        }

        /** The URL of the provider, whose {@code /.well-known/openid-configuration} names the token endpoint. */
        public Builder issuer(String value) {
            issuer = value;
            return this;
        }

        /** The token endpoint itself, instead of the issuer. */
        public Builder tokenUrl(String value) {
            tokenUrl = value;
            return this;
        }

        /** A file with the client's secret, which is read for each fetch. */
        public Builder clientSecretFile(Path value) {
            clientSecretFile = value;
            return this;
        }

        /** The name of the environment variable with the client's secret, instead of a file. */
        public Builder clientSecretEnv(String value) {
            clientSecretEnv = value;
            return this;
        }

        /** The scopes, separated by spaces. */
        public Builder scope(String value) {
            return want("scope", value);
        }

        /** For whom the token is, for providers that read {@code audience}. */
        public Builder audience(String value) {
            return want("audience", value);
        }

        /** For whom the token is, for providers that read {@code resource} (RFC 8707). */
        public Builder resource(String value) {
            return want("resource", value);
        }

        private Builder want(String name, String value) {
            if (value != null && !value.isEmpty()) {
                wanted.put(name, value);
            }
            return this;
        }

        /** The certificates that the provider is checked with; by default those of the JDK. */
        public Builder caFile(Path value) {
            caFile = value;
            return this;
        }

        /** Gets the errors of fetches while the former token is still valid. */
        public Builder onError(Consumer<Exception> value) {
            onError = value;
            return this;
        }

        /** Checks the settings. Nothing is fetched before the first token is needed. */
        public ClientCredentials build() throws IOException {
            if (clientId == null || clientId.isEmpty()) {
                throw new IllegalArgumentException("a client id is needed");
            }
            if ((issuer == null) == (tokenUrl == null)) {
                throw new IllegalArgumentException("either issuer or tokenUrl is needed");
            }
            if ((clientSecretFile == null) == (clientSecretEnv == null)) {
                throw new IllegalArgumentException("either clientSecretFile or clientSecretEnv is needed");
            }
            if (!isSafe(issuer == null ? tokenUrl : issuer, true)) {
                String name = issuer == null ? "tokenUrl" : "issuer";
                throw new IllegalArgumentException(name + " must be an https URL, or http on a loopback address");
            }
            return new ClientCredentials(this);
        }
    }

    private record Held(String value, long fetchedAt, long renewAt, long expiresAt) {
    }

    private record Endpoint(String url, boolean post) {
    }

    /** Why there is no token. Unless it is final, another attempt may succeed soon. */
    private static final class NoToken extends Exception {
        private static final long serialVersionUID = 1L;

        private final boolean isFinal;
        private final long retryAfterMs;

        private NoToken(String message, boolean isFinal, long retryAfterMs, Throwable cause) {
            super("no token: " + message, cause);
            this.isFinal = isFinal;
            this.retryAfterMs = retryAfterMs;
        }

        private NoToken(String message) {
            this(message, true, 0, null);
        }
    }

    private final Builder settings;
    private final HttpClient http;
    /** A younger token that a node refuses is not replaced: the next one would be refused too. Tests change it. */
    long refusedAfterMs = 5_000;
    /** The endpoint is used by the one fetch; all below is guarded by this object. */
    private volatile Endpoint endpoint;
    private Held held;
    private boolean fetching;
    private int failures;
    private long notBefore = System.nanoTime();
    private NoToken last;

    private ClientCredentials(Builder settings) throws IOException {
        this.settings = settings;
        // A redirect could take the secret elsewhere.
        HttpClient.Builder builder = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1)
            .followRedirects(HttpClient.Redirect.NEVER).connectTimeout(Duration.ofMillis(ANSWER_MAX_MS));
        if (settings.caFile != null) {
            builder.sslContext(Nodes.trusting(settings.caFile));
        }
        http = builder.build();
    }

    /** Settings of the client with this name at the provider. */
    public static Builder builder(String clientId) {
        return new Builder(clientId);
    }

    /** A token that is valid now. It is fetched if none is held; the time for that is limited by {@code timeout}. */
    public synchronized String token(Duration timeout) throws MaxineClientException, InterruptedException {
        long deadline = System.nanoTime() + timeout.toNanos();
        while (true) {
            long now = System.nanoTime();
            if (held != null && held.expiresAt - now > 0) {
                // The old token is good while the new one is on its way.
                if (now - held.renewAt >= 0 && now - notBefore >= 0) {
                    renew();
                }
                return held.value;
            }
            long left = deadline - now;
            long wait = fetching ? 0 : notBefore - now;
            if (left <= 0 || wait > 0 && (last.isFinal || wait >= left)) {
                String message = last == null ? "no token: the provider has not answered in time" : last.getMessage();
                throw new MaxineClientException(0, message, null, last);
            }
            if (wait <= 0) {
                renew();
            }
            TimeUnit.NANOSECONDS.timedWait(this, Math.max(1_000_000, wait > 0 ? wait : left));
        }
    }

    /** A node has refused this token. Returns whether to ask again, with a new one. */
    public synchronized boolean refused(String token) {
        if (held == null || !held.value.equals(token)) {
            return true;
        }
        if (System.nanoTime() - held.fetchedAt < refusedAfterMs * 1_000_000) {
            return false;
        }
        held = null;
        return true;
    }

    /** One fetch at a time. The caller has the lock. */
    private void renew() {
        if (!fetching) {
            fetching = true;
            Thread thread = new Thread(this::run, "maxine-token");
            thread.setDaemon(true);
            thread.start();
        }
    }

    private void run() {
        Held fetched = null;
        NoToken failed = null;
        try {
            fetched = fetch();
        } catch (NoToken error) {
            failed = error;
        } catch (InterruptedException | RuntimeException error) { // Whoever waits must learn of it.
            failed = new NoToken(error.getClass().getName(), true, 0, null);
        }
        if (finish(fetched, failed)) {
            MaxineClient.tell(settings.onError, new MaxineClientException(0, failed.getMessage(), null, failed));
        }
    }

    /** Notes the end of a fetch. Returns whether it has failed while the former token is still valid. */
    private synchronized boolean finish(Held fetched, NoToken failed) {
        fetching = false;
        last = failed;
        if (failed == null) {
            held = fetched;
            failures = 0;
            notBefore = System.nanoTime();
        } else {
            double limitMs = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * Math.pow(2, failures++));
            double pauseMs = limitMs * (0.5 + ThreadLocalRandom.current().nextDouble() / 2);
            notBefore = System.nanoTime() + (long) (Math.max(pauseMs, failed.retryAfterMs) * 1e6);
            endpoint = null; // The provider may have moved.
        }
        notifyAll();
        return failed != null && held != null && held.expiresAt - System.nanoTime() > 0;
    }

    private Held fetch() throws NoToken, InterruptedException {
        String secret = secret();
        if (endpoint == null) {
            endpoint = settings.tokenUrl == null ? discover() : new Endpoint(settings.tokenUrl, false);
        }
        Endpoint at = endpoint;
        Map<String, String> form = new LinkedHashMap<>(Map.of("grant_type", "client_credentials"));
        form.putAll(settings.wanted);
        // As a form has it, which RFC 6749 asks for in section 2.3.1.
        String pair = encoded(settings.clientId) + ":" + encoded(secret);
        String basic = Base64.getEncoder().encodeToString(pair.getBytes(StandardCharsets.US_ASCII));
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(at.url)).header("content-type", "application/x-www-form-urlencoded");
        if (at.post) {
            form.put("client_id", settings.clientId);
            form.put("client_secret", secret);
        } else {
            request.header("authorization", "Basic " + basic);
        }
        String sent = form.entrySet().stream().map(one -> encoded(one.getKey()) + "=" + encoded(one.getValue())).collect(Collectors.joining("&"));
        long fetchedAt = System.nanoTime();
        Map<?, ?> answer = ask(at.url, request.POST(HttpRequest.BodyPublishers.ofString(sent)), secret, encoded(secret), basic);
        if (!(answer.get("access_token") instanceof String value) || !value.matches("[\\x21-\\x7e]+")) {
            throw new NoToken(at.url + ": the answer has no access_token");
        }
        if (!(answer.get("token_type") instanceof String type) || !type.equalsIgnoreCase("bearer")) {
            throw new NoToken(at.url + ": the token_type is not Bearer");
        }
        double lifetimeS = secondsOf(answer.get("expires_in"));
        // Clients that start together do not renew together.
        double marginS = Math.min(RENEW_BEFORE_MAX_S, lifetimeS / 5) * (1 + ThreadLocalRandom.current().nextDouble() / 2);
        return new Held(value, fetchedAt, fetchedAt + (long) ((lifetimeS - marginS) * 1e9), fetchedAt + (long) (lifetimeS * 1e9));
    }

    private static double secondsOf(Object lifetime) {
        String text = String.valueOf(lifetime);
        double found = text.matches("\\d{1,9}(\\.\\d{1,9})?") ? Double.parseDouble(text) : 0;
        return found > 0 ? found : LIFETIME_S;
    }

    /** Read for each fetch, so that a replaced secret is used at once. */
    private String secret() throws NoToken {
        String name = settings.clientSecretEnv;
        if (name != null) {
            String secret = System.getenv(name);
            if (secret == null || secret.isEmpty()) {
                throw new NoToken("the environment variable " + name + " has no client secret");
            }
            return secret;
        }
        String secret;
        try {
            secret = Files.readString(settings.clientSecretFile).strip();
        } catch (IOException error) {
            throw new NoToken("the client secret cannot be read: " + error, true, 0, error);
        }
        if (secret.isEmpty()) {
            throw new NoToken(settings.clientSecretFile + " has no client secret");
        }
        return secret;
    }

    private Endpoint discover() throws NoToken, InterruptedException {
        String url = settings.issuer.replaceAll("/+$", "") + "/.well-known/openid-configuration";
        Map<?, ?> found = ask(url, HttpRequest.newBuilder(URI.create(url)));
        if (!settings.issuer.equals(found.get("issuer"))) {
            throw new NoToken(url + ": the issuer in the answer is another one");
        }
        if (!(found.get("token_endpoint") instanceof String at) || !isSafe(at, isLoopback(URI.create(settings.issuer)))) {
            throw new NoToken(url + ": the token_endpoint must be an https URL");
        }
        List<?> methods = found.get("token_endpoint_auth_methods_supported") instanceof List<?> list ? list : List.of();
        return new Endpoint(at, methods.contains("client_secret_post") && !methods.contains("client_secret_basic"));
    }

    /** The JSON object of an answer with status 200. The secrets are what an error may not have. */
    private Map<?, ?> ask(String url, HttpRequest.Builder request, String... secrets) throws NoToken, InterruptedException {
        HttpResponse<String> answer;
        try {
            HttpRequest whole = request.header("accept", "application/json").build();
            answer = Nodes.within(http.sendAsync(whole, HttpResponse.BodyHandlers.ofString(StandardCharsets.UTF_8)), ANSWER_MAX_MS);
        } catch (TimeoutException error) {
            throw new NoToken(url + ": no answer in time", false, 0, error);
        } catch (IOException error) {
            throw new NoToken(url + ": " + error, false, 0, error);
        }
        Map<?, ?> got = Map.of();
        try {
            if (Json.read(answer.body()) instanceof Map<?, ?> object) {
                got = object;
            }
        } catch (IllegalArgumentException error) {
            // Not JSON: the status says enough.
        }
        int status = answer.statusCode();
        if (status == 200 && !got.isEmpty()) {
            return got;
        }
        List<String> texts = new ArrayList<>();
        Stream.of(got.get("error"), got.get("error_description")).filter(String.class::isInstance).forEach(one -> texts.add((String) one));
        String said = String.join(": ", texts);
        for (String secret : secrets) { // A provider may repeat what was sent to it.
            said = said.replace(secret, "***");
        }
        said = said.replaceAll("[^\\x20-\\x7e]+", " ");
        said = said.isEmpty() ? "the answer is not what a provider answers" : said.substring(0, Math.min(300, said.length()));
        long retryAfterS = answer.headers().firstValue("retry-after").filter(text -> text.matches("\\d{1,4}")).map(Long::valueOf).orElse(0L);
        boolean isFinal = status < 500 && status != 408 && status != 429;
        throw new NoToken(url + " answers " + status + ": " + said, isFinal, retryAfterS * 1_000, null);
    }

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    private static boolean isLoopback(URI url) {
        String host = url.getHost();
        return host.equals("localhost") || host.equals("[::1]") || host.matches("127\\.\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}");
    }

    /** Whether a secret may be sent to this URL. */
    private static boolean isSafe(String text, boolean plainOnLoopback) {
        try {
            URI url = URI.create(text);
            boolean isPlain = "http".equals(url.getScheme()) && plainOnLoopback;
            return url.getHost() != null && url.getRawUserInfo() == null
                && ("https".equals(url.getScheme()) || isPlain && isLoopback(url));
        } catch (IllegalArgumentException error) {
            return false;
        }
    }
}

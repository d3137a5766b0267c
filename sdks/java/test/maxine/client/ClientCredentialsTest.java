package maxine.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.function.IntFunction;
import java.util.stream.IntStream;
import maxine.Json;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.io.TempDir;

/**
 * Tokens by client credentials: against a provider that fails in a chosen way, and against a real provider and a cluster that
 * accepts its tokens, if {@code MAXINE_TEST_ISSUER} names one.
 */
class ClientCredentialsTest {
    private static final String SECRET = "s3cret: with % signs +";
    private static final String PAIR =
        Base64.getEncoder().encodeToString("orders%3A+a%2Bb:s3cret%3A+with+%25+signs+%2B".getBytes(StandardCharsets.US_ASCII));
    private static final Duration PATIENCE = Duration.ofSeconds(10);

    private record Reply(int status, String header, String value, Object body) {
        private static Reply of(int status, Object body) {
            return new Reply(status, null, null, body);
        }
    }

    private record Asked(String path, String authorization, String form) {
    }

    /** A server that gives each request the answer to its number, from 1. */
    private final class Fake {
        private final List<Asked> seen = new CopyOnWriteArrayList<>();
        private final String url;

        private Fake(IntFunction<Reply> answer) throws IOException {
            HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
            servers.add(server);
            server.setExecutor(Executors.newCachedThreadPool());
            server.createContext("/", exchange -> {
                String form = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
                int nth;
                synchronized (this) {
                    seen.add(new Asked(exchange.getRequestURI().getPath(), exchange.getRequestHeaders().getFirst("authorization"), form));
                    nth = seen.size();
                }
                Reply given = answer.apply(nth);
                if (given.header != null) {
                    exchange.getResponseHeaders().set(given.header, given.value);
                }
                byte[] text = Json.write(given.body).getBytes(StandardCharsets.UTF_8);
                exchange.sendResponseHeaders(given.status, text.length);
                exchange.getResponseBody().write(text);
                exchange.close();
            });
            server.start();
            url = "http://127.0.0.1:" + server.getAddress().getPort();
        }

        private Fake(Reply answer) throws IOException {
            this(nth -> answer);
        }
    }

    private final List<HttpServer> servers = new ArrayList<>();
    @TempDir
    private Path folder;
    private Path secretFile;

    @BeforeEach
    void writeSecret() throws IOException {
        secretFile = folder.resolve("secret");
        Files.writeString(secretFile, SECRET + "\n");
    }

    @AfterEach
    void stop() {
        servers.forEach(server -> server.stop(0));
    }

    private static Reply granted(String token, long lifetimeS) {
        return Reply.of(200, Map.of("access_token", token, "token_type", "bearer", "expires_in", lifetimeS));
    }

    private ClientCredentials.Builder at(String tokenUrl) {
        return ClientCredentials.builder("orders: a+b").tokenUrl(tokenUrl).clientSecretFile(secretFile);
    }

    private static void refuses(String message, ClientCredentials source, Duration timeout) {
        MaxineClientException error = assertThrows(MaxineClientException.class, () -> source.token(timeout));
        assertTrue(error.getMessage().contains(message), error.getMessage());
        assertEquals(0, error.status());
    }

    @Test
    void oneFetchServesAllThreadsWithTheFormOfRfc6749() throws Exception {
        Fake server = new Fake(granted("one", 600));
        ClientCredentials source = at(server.url + "/token").scope("a b").audience("maxine").resource("https://maxine.test/").build();
        Set<String> got = ConcurrentHashMap.newKeySet();
        List<Thread> threads = IntStream.range(0, 20).mapToObj(n -> new Thread(() -> {
            try {
                got.add(source.token(PATIENCE));
            } catch (IOException | InterruptedException error) {
                got.add(error.toString());
            }
        })).toList();
        threads.forEach(Thread::start);
        for (Thread thread : threads) {
            thread.join();
        }
        assertEquals(Set.of("one"), got);
        assertEquals(1, server.seen.size());
        assertEquals("Basic " + PAIR, server.seen.get(0).authorization);
        String form = URLDecoder.decode(server.seen.get(0).form, StandardCharsets.UTF_8);
        assertEquals("grant_type=client_credentials&scope=a b&audience=maxine&resource=https://maxine.test/", form);
    }

    @Test
    void aTokenIsRenewedBeforeItExpiresAndUsedWhileTheProviderFails() throws Exception {
        Fake server = new Fake(nth -> nth == 2 ? Reply.of(503, Map.of()) : granted("token-" + nth, 8));
        List<Exception> errors = new CopyOnWriteArrayList<>();
        ClientCredentials source = at(server.url).onError(errors::add).build();
        assertEquals("token-1", source.token(PATIENCE));
        long begun = System.nanoTime();
        Set<String> got = new HashSet<>();
        while (!got.contains("token-3")) {
            got.add(source.token(PATIENCE));
            assertTrue(System.nanoTime() - begun < 8_000_000_000L, got::toString);
            Thread.sleep(5);
        }
        assertEquals(Set.of("token-1", "token-3"), got);
        assertTrue(errors.get(0).getMessage().contains("answers 503"), errors::toString);
    }

    @Test
    void aProviderThatFailsIsAskedAgainAfterAPause() throws Exception {
        Fake server = new Fake(nth -> nth < 3 ? Reply.of(503, Map.of()) : granted("late", 600));
        long begun = System.nanoTime();
        assertEquals("late", at(server.url).build().token(PATIENCE));
        assertTrue(System.nanoTime() - begun > 700_000_000L);
        Fake down = new Fake(new Reply(503, "retry-after", "30", Map.of()));
        refuses("answers 503", at(down.url).build(), Duration.ofMillis(300));
        CountDownLatch ended = new CountDownLatch(1);
        Fake silent = new Fake(nth -> {
            try {
                ended.await();
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
            return granted("never", 600);
        });
        refuses("the provider has not answered in time", at(silent.url).build(), Duration.ofMillis(300));
        ended.countDown();
    }

    @Test
    void aRefusalEndsTheCallAtOnceAndItsErrorDoesNotTellTheSecret() throws Exception {
        String description = "no client with " + SECRET + " and " + PAIR;
        Fake server = new Fake(Reply.of(401, Map.of("error", "invalid_client", "error_description", description)));
        ClientCredentials source = at(server.url).build();
        for (int n = 0; n < 3; n++) {
            MaxineClientException error = assertThrows(MaxineClientException.class, () -> source.token(PATIENCE));
            assertEquals("no token: " + server.url + " answers 401: invalid_client: no client with *** and ***", error.getMessage());
        }
        assertEquals(1, server.seen.size());
    }

    @Test
    void withoutATokenNoNodeIsAsked() throws Exception {
        Fake node = new Fake(Reply.of(200, Map.of()));
        Fake server = new Fake(Reply.of(400, Map.of("error", "invalid_scope")));
        MaxineClient.Options options = MaxineClient.Options.DEFAULT.withCredentials(at(server.url).build());
        Nodes nodes = new Nodes(List.of(node.url), options);
        MaxineClientException error = assertThrows(MaxineClientException.class, () -> nodes.json("GET", "/x", null, PATIENCE));
        assertTrue(error.status() == 0 && error.getMessage().endsWith("invalid_scope"), error.getMessage());
        assertEquals(List.of(), node.seen);
        assertThrows(IllegalArgumentException.class, () -> new Nodes(List.of(node.url), options.withToken("t")));
    }

    @Test
    void aTokenThatANodeRefusesIsReplacedUnlessItIsNew() throws Exception {
        Fake server = new Fake(nth -> granted("token-" + nth, 600));
        Fake node = new Fake(nth -> Reply.of(nth == 3 ? 200 : 401, Map.of("detail", "no")));
        ClientCredentials source = at(server.url).build();
        Nodes nodes = new Nodes(List.of(node.url), MaxineClient.Options.DEFAULT.withCredentials(source));
        MaxineClientException error = assertThrows(MaxineClientException.class, () -> nodes.json("GET", "/x", null, PATIENCE));
        assertEquals(401, error.status());
        source.refusedAfterMs = 0;
        nodes.json("GET", "/x", null, PATIENCE);
        assertEquals(List.of("Bearer token-1", "Bearer token-1", "Bearer token-2"), node.seen.stream().map(Asked::authorization).toList());
    }

    @Test
    void theIssuerNamesTheEndpointAndTheMethodAndOnlyItself() throws Exception {
        Map<String, Object> found = new ConcurrentHashMap<>(Map.of("token_endpoint_auth_methods_supported", List.of("client_secret_post")));
        // Requests for the document and for the token come in turn.
        Fake server = new Fake(nth -> nth == 2 ? granted("posted", 600) : Reply.of(200, found));
        found.put("issuer", server.url);
        found.put("token_endpoint", server.url + "/token");
        ClientCredentials.Builder builder = ClientCredentials.builder("orders").issuer(server.url).clientSecretFile(secretFile);
        assertEquals("posted", builder.build().token(PATIENCE));
        Asked asked = server.seen.get(1);
        assertEquals(null, asked.authorization);
        assertTrue(asked.path.equals("/token") && asked.form.contains("client_secret=s3cret%3A+with+%25+signs+%2B"), asked::toString);
        found.put("token_endpoint", "http://10.0.0.1/token");
        refuses("the token_endpoint must be an https URL", builder.build(), PATIENCE);
        found.put("issuer", "https://another.test");
        refuses("another one", builder.build(), PATIENCE);
    }

    @Test
    void answersAndSettingsThatAreNotSafeAreRefused() throws Exception {
        for (List<String> one : List.of(List.of("a b", "bearer", "no access_token"), List.of("a\nb", "bearer", "no access_token"),
                List.of("a", "mac", "token_type"))) {
            Fake server = new Fake(Reply.of(200, Map.of("access_token", one.get(0), "token_type", one.get(1))));
            refuses(one.get(2), at(server.url).build(), PATIENCE);
        }
        Fake elsewhere = new Fake(granted("stolen", 600));
        Fake redirecting = new Fake(new Reply(307, "location", elsewhere.url, Map.of()));
        refuses("answers 307", at(redirecting.url).build(), PATIENCE);
        assertEquals(List.of(), elsewhere.seen);
        for (String url : List.of("http://10.0.0.1/token", "http://localhost.example/token", "https://u:p@h/token", "ftp://localhost/", "token")) {
            assertThrows(IllegalArgumentException.class, () -> at(url).build(), url);
        }
        assertThrows(IllegalArgumentException.class, () -> at("https://h").issuer("https://h").build());
        assertThrows(IllegalArgumentException.class, () -> ClientCredentials.builder("a").tokenUrl("https://h").build());
        assertThrows(IllegalArgumentException.class, () -> at("https://h").clientSecretEnv("E").build());
        refuses("the client secret cannot be read", at("https://127.0.0.1:1").clientSecretFile(Path.of("/nowhere")).build(), PATIENCE);
        ClientCredentials unset =
            ClientCredentials.builder("a").tokenUrl("https://127.0.0.1:1").clientSecretEnv("MAXINE_TEST_NO_SECRET").build();
        refuses("MAXINE_TEST_NO_SECRET has no client secret", unset, PATIENCE);
    }

    private ClientCredentials real(String clientId) throws IOException {
        return ClientCredentials.builder(clientId).issuer(System.getenv("MAXINE_TEST_ISSUER")).clientSecretFile(secretFile)
            .resource("https://maxine.test/").scope("register").build();
    }

    /** What a node says about the caller. */
    private static Map<String, Object> me(ClientCredentials source) throws IOException, InterruptedException {
        List<String> nodes = List.of(System.getenv("MAXINE_SERVER").split(","));
        return new Nodes(nodes, MaxineClient.Options.DEFAULT.withCredentials(source)).json("GET", "/api/v1/me", null, PATIENCE).object();
    }

    @Test
    @EnabledIfEnvironmentVariable(named = "MAXINE_TEST_ISSUER", matches = ".+")
    void theNodesAcceptTheTokenOfARealProvider() throws Exception {
        Map<String, Object> me = me(real("orders: a+b"));
        assertEquals(List.of("jwt:corp/orders: a+b", "operator", "jwt"), List.of(me.get("user"), me.get("role"), me.get("via")));
        assertEquals(403, assertThrows(MaxineClientException.class, () -> me(real("stranger"))).status());
        refuses("answers 401: invalid_client", real("nobody"), PATIENCE);
    }

    @Test
    @EnabledIfEnvironmentVariable(named = "MAXINE_TEST_ISSUER", matches = ".+")
    void callsGoOnBeyondTheLifeOfAToken() throws Exception {
        ClientCredentials source = real("brief");
        Set<String> used = new HashSet<>();
        for (long begun = System.nanoTime(); used.size() < 3; Thread.sleep(10)) {
            assertFalse(System.nanoTime() - begun > 30_000_000_000L);
            assertEquals("viewer", me(source).get("role"));
            used.add(source.token(PATIENCE));
        }
    }
}

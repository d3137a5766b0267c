package maxine.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sun.net.httpserver.HttpServer;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import java.util.function.BooleanSupplier;
import java.util.function.Function;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.io.TempDir;

/** The client against nodes that fail in a chosen way, and against a real cluster if {@code MAXINE_SERVER} names one. */
class ClientTest {
    private record Answer(int status, String retryAfter, String body) {
    }

    private final List<HttpServer> servers = new ArrayList<>();
    private final List<String> seen = new CopyOnWriteArrayList<>();

    @TempDir
    private Path folder;

    @AfterEach
    void stop() {
        servers.forEach(server -> server.stop(0));
    }

    /** A node that answers each request as {@code answer} says. */
    private String fakeNode(HttpServer server, Function<String, Answer> answer) throws IOException {
        servers.add(server);
        server.bind(new InetSocketAddress("127.0.0.1", 0), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            String token = exchange.getRequestHeaders().getFirst("authorization");
            seen.add(exchange.getRequestMethod() + " " + exchange.getRequestURI() + (token == null ? "" : " " + token));
            exchange.getRequestBody().readAllBytes();
            Answer given = answer.apply(exchange.getRequestMethod());
            if (given.retryAfter != null) {
                exchange.getResponseHeaders().set("retry-after", given.retryAfter);
            }
            exchange.sendResponseHeaders(given.status, given.body.length());
            exchange.getResponseBody().write(given.body.getBytes());
            exchange.close();
        });
        server.start();
        return "http://127.0.0.1:" + server.getAddress().getPort();
    }

    private String fakeNode(Answer answer) throws IOException {
        return fakeNode(HttpServer.create(), method -> answer);
    }

    private static String closedPort() throws IOException {
        try (ServerSocket socket = new ServerSocket(0)) {
            return "http://127.0.0.1:" + socket.getLocalPort();
        }
    }

    private static Object get(List<String> nodes, MaxineClient.Options options) throws IOException, InterruptedException {
        return new Nodes(nodes, options).json("GET", "/x", null, options.timeout()).json();
    }

    /** The error of a node that is asked once. */
    private static MaxineClientException once(String address) throws IOException {
        Nodes nodes = new Nodes(List.of(address), MaxineClient.Options.DEFAULT) {
            @Override
            void failed(Node node, long retryAfterS) {
                super.failed(node, 60);
            }
        };
        return assertThrows(MaxineClientException.class, () -> nodes.json("GET", "/x", null, Duration.ofSeconds(10)));
    }

    private static void until(String what, BooleanSupplier condition) throws InterruptedException {
        long deadline = System.nanoTime() + Duration.ofSeconds(30).toNanos();
        while (!condition.getAsBoolean()) {
            assertTrue(System.nanoTime() < deadline, what);
            Thread.sleep(10);
        }
    }

    @Test
    void nodesThatFailArePassedOver() throws Exception {
        String good = fakeNode(new Answer(200, null, "{\"ok\": 1}"));
        String bad = fakeNode(HttpServer.create(), method -> new Answer(503, "30", "{\"detail\": \"no state\"}"));
        Nodes nodes = new Nodes(List.of(closedPort(), bad, good), MaxineClient.Options.DEFAULT);
        for (int n = 0; n < 10; n++) {
            assertEquals(Map.of("ok", 1L), nodes.json("GET", "/x", null, Duration.ofSeconds(10)).json());
        }
        // After its first answer the node is left alone for as long as it has asked.
        assertTrue(seen.size() <= 11, seen::toString);
    }

    @Test
    void theDeadlineEndsTheAttempts() throws Exception {
        // The node asks for more time than there is.
        String bad = fakeNode(new Answer(503, "30", "{\"detail\": \"no leader\"}"));
        assertEquals("503: no leader",
            assertThrows(MaxineClientException.class, () -> get(List.of(bad), MaxineClient.Options.DEFAULT)).getMessage());
        assertEquals(0, once(closedPort()).status());
    }

    @Test
    void aRefusalIsNotRepeated() throws Exception {
        String node = fakeNode(new Answer(422, null, "{\"detail\": \"weight\"}"));
        MaxineClientException refused =
            assertThrows(MaxineClientException.class, () -> get(List.of(node, node), MaxineClient.Options.DEFAULT));
        assertEquals(List.of("weight", 1), List.of(refused.problem().get("detail"), seen.size()));
    }

    @Test
    void aReplacedTokenFileIsUsedAtOnce() throws Exception {
        String node = fakeNode(new Answer(200, null, "{}"));
        Path file = folder.resolve("token");
        for (String token : List.of("one", "two")) {
            Files.writeString(file, token + "\n");
            get(List.of(node), MaxineClient.Options.DEFAULT.withTokenFile(file));
        }
        assertEquals(List.of("GET /x Bearer one", "GET /x Bearer two"), seen);
    }

    @Test
    void theCertificateOfANodeIsChecked() throws Exception {
        Path store = folder.resolve("node.p12");
        Path pem = folder.resolve("ca.pem");
        keytool("-genkeypair", "-keyalg", "EC", "-alias", "node", "-dname", "CN=node", "-ext", "san=dns:localhost",
            "-keystore", store.toString());
        keytool("-exportcert", "-rfc", "-alias", "node", "-file", pem.toString(), "-keystore", store.toString());
        KeyStore keys = KeyStore.getInstance("PKCS12");
        try (InputStream in = Files.newInputStream(store)) {
            keys.load(in, "password".toCharArray());
        }
        KeyManagerFactory managers = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        managers.init(keys, "password".toCharArray());
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(managers.getKeyManagers(), null, null);
        HttpsServer server = HttpsServer.create();
        server.setHttpsConfigurator(new HttpsConfigurator(tls));
        fakeNode(server, method -> new Answer(200, null, "{}"));
        List<String> nodes = List.of("https://localhost:" + server.getAddress().getPort());
        assertEquals(Map.of(), get(nodes, MaxineClient.Options.DEFAULT.withCaFile(pem)));
        String message = once(nodes.get(0)).getMessage();
        assertTrue(message.contains("certification path"), message);
    }

    private static void keytool(String... arguments) throws IOException, InterruptedException {
        List<String> command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "keytool").toString()));
        command.addAll(List.of(arguments));
        command.addAll(List.of("-storepass", "password"));
        assertEquals(0, new ProcessBuilder(command).redirectErrorStream(true).start().waitFor());
    }

    @Test
    void whatTheClusterHasLostIsRegisteredAgain() throws Exception {
        Queue<String> beats = new ArrayDeque<>(List.of("{\"unknown\": []}", "wrong", "{\"unknown\": [0]}"));
        String node = fakeNode(HttpServer.create(), method -> {
            synchronized (beats) {
                String beat = method.equals("POST") ? beats.poll() : "{\"lease_epoch\": 7}";
                return new Answer(200, null, beat == null ? "{\"unknown\": []}" : beat);
            }
        });
        try (MaxineClient client = new MaxineClient(node)) {
            Registration kept = client.register("orders", "a b/c", "http://10.0.0.9:3000", Map.of("ttl_ms", 90L));
            until("the renewal", () -> kept.renewals() == 1 && kept.beats() >= 3);
        }
        String path = "/api/v1/services/default/orders/instances/a%20b%2Fc";
        List<String> others = seen.stream().filter(one -> !one.startsWith("POST")).toList();
        assertEquals(List.of("PUT " + path, "PUT " + path, "DELETE " + path + "?lease_epoch=7"), others);
    }

    @Test
    void namesThatMeanAnotherPathAreRefused() throws Exception {
        try (MaxineClient client = new MaxineClient(closedPort())) {
            assertThrows(IllegalArgumentException.class, () -> client.register("..", "a", "http://h", Map.of()));
        }
    }

    @Test
    @EnabledIfEnvironmentVariable(named = "MAXINE_SERVER", matches = ".+")
    void aResolverFollowsRegistrationsAndGoesOnWithoutANode() throws Exception {
        String service = "java-" + System.nanoTime();
        String[] nodes = System.getenv("MAXINE_SERVER").split(",");
        List<MaxineClient.Attempt> attempts = new CopyOnWriteArrayList<>();
        List<MaxineClient.Call> calls = new CopyOnWriteArrayList<>();
        MaxineClient.Options observed = MaxineClient.Options.DEFAULT.withOnAttempt(attempts::add).withOnCall(call -> {
            calls.add(call);
            if (calls.size() == 1) {
                throw new IllegalStateException("an error of a hook ends nothing: this is expected");
            }
        });
        try (MaxineClient client = new MaxineClient(List.of(nodes), observed); MaxineClient other = new MaxineClient(nodes)) {
            Resolver resolver = client.resolver(service, null);
            assertNull(resolver.choose());
            Registration a = other.register(service, "a", "http://10.0.0.1:1", Map.of());
            other.register(service, "b", "http://10.0.0.1:2", Map.of("weight", 3L));
            until("both instances", () -> resolver.instances().size() == 2);
            List<String> chosen = new ArrayList<>();
            for (int n = 0; n < 8; n++) {
                try (Resolver.Chosen one = resolver.choose()) {
                    chosen.add(one.instance().id());
                }
            }
            assertEquals(2, chosen.stream().filter("a"::equals).count(), chosen::toString);
            // An instance that could not be reached is avoided; the last one is chosen all the same.
            Resolver.Chosen chosenOne = resolver.choose(Request.of("x"));
            chosenOne.again().abandon();
            chosenOne.failed();
            assertEquals(8 + 1, calls.size());
            assertEquals(new MaxineClient.Call(service, chosenOne.instance().id(), calls.get(8).duration(), true), calls.get(8));
            assertTrue(attempts.stream().anyMatch(one -> one.status() == 200 && one.path().contains(service)), attempts::toString);
            a.close();
            until("the removal", () -> resolver.instances().stream().map(Instance::id).toList().equals(List.of("b")));
            assertTrue(resolver.age().toSeconds() < 15);
            resolver.choose().failed();
            client.close();
            assertNotNull(resolver.choose());
            assertEquals("http://10.0.0.1:2", resolver.choose().address());
        }
    }
}

package maxine;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Runs sdks/spec/cases.json (its path is the argument) with java.net.http and its default settings, which
 * offer HTTP/2. Then runs the client against the same cluster.
 */
public final class Conformance {
    private static final long EVENTUALLY_MS = 30_000;
    /** The number of wrong answers of the faulty node that sdks/spec/README.md describes. */
    private static final int FAULTY_ANSWERS = 6;
    private static final Pattern VARIABLE = Pattern.compile("\\$\\{(\\w+)}");
    private static final String[] NODES = System.getenv("MAXINE_SERVER").split(",");
    private static final String[] UPSTREAM = System.getenv("MAXINE_UPSTREAM").split(":");
    private static final HttpClient HTTP = HttpClient.newHttpClient();
    private static final Map<String, String> VARIABLES = new HashMap<>();

    private Conformance() {}

    private static final class Failed extends Exception {
        private static final long serialVersionUID = 1L;

        Failed(String message) {
            super(message);
        }
    }

    private static void require(boolean holds, Object message) throws Failed {
        if (!holds) {
            throw new Failed(String.valueOf(message));
        }
    }

    private static String fill(String text) {
        return VARIABLE.matcher(text).replaceAll(found -> Matcher.quoteReplacement(VARIABLES.get(found.group(1))));
    }

    private static Object filled(Object value) {
        if (value instanceof String text) {
            return fill(text);
        }
        if (value instanceof List<?> list) {
            return list.stream().map(Conformance::filled).toList();
        }
        if (value instanceof Map<?, ?> map) {
            Map<String, Object> copy = new LinkedHashMap<>();
            map.forEach((name, inner) -> copy.put(fill(name.toString()), filled(inner)));
            return copy;
        }
        return value;
    }

    /** Whether a value has the named type; null if the name is not the name of a type. */
    private static Boolean hasType(Object name, Object value) {
        return name instanceof String text ? switch (text) {
            case "$string" -> value instanceof String;
            case "$number" -> value instanceof Number;
            case "$integer" -> value instanceof Long;
            case "$boolean" -> value instanceof Boolean;
            case "$array" -> value instanceof List;
            case "$object" -> value instanceof Map;
            default -> null;
        } : null;
    }

    private static void check(Object expected, Object actual, String at) throws Failed {
        String wrong = at + " is " + Json.write(actual) + ", not " + Json.write(expected);
        Boolean fits = hasType(expected, actual);
        if (fits != null) {
            require(fits, wrong);
        } else if (expected instanceof String text && text.startsWith("$re:")) {
            require(String.valueOf(actual).matches(text.substring(4)), wrong);
        } else if (expected instanceof Map<?, ?> fields) {
            require(actual instanceof Map, wrong);
            Map<?, ?> got = (Map<?, ?>) actual;
            for (Map.Entry<?, ?> field : fields.entrySet()) {
                if (!field.getKey().equals("...")) {
                    require(got.containsKey(field.getKey()), at + " has no " + field.getKey());
                    check(field.getValue(), got.get(field.getKey()), at + "." + field.getKey());
                }
            }
            require(fields.containsKey("...") || got.size() == fields.size(), wrong);
        } else {
            require(expected == null ? actual == null : expected.equals(actual), wrong);
        }
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> object(Object value) {
        return value == null ? Map.of() : (Map<String, Object>) value;
    }

    private static HttpResponse<String> send(Map<String, Object> asked) throws IOException, InterruptedException {
        int node = ((Number) asked.getOrDefault("node", 0L)).intValue() % NODES.length;
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(NODES[node] + asked.get("path")));
        String body = (String) asked.get("text");
        if (asked.containsKey("json")) {
            body = Json.write(asked.get("json"));
            request.setHeader("content-type", "application/json");
        }
        object(asked.get("headers")).forEach((name, value) -> request.setHeader(name, (String) value));
        request.method((String) asked.get("method"),
            body == null ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofString(body));
        return HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
    }

    private static String header(HttpResponse<String> answer, String name) {
        List<String> values = answer.headers().allValues(name);
        return values.isEmpty() ? null : String.join(", ", values);
    }

    private static void compare(Map<String, Object> expect, HttpResponse<String> answer) throws Failed {
        check(expect.get("status"), (long) answer.statusCode(), "status of " + answer.body());
        for (Map.Entry<String, Object> header : object(expect.get("headers")).entrySet()) {
            check(header.getValue(), header(answer, header.getKey()), header.getKey());
        }
        if (expect.containsKey("text")) {
            check(expect.get("text"), answer.body(), "body");
        }
        if (expect.containsKey("json")) {
            check(expect.get("json"), Json.read(answer.body()), "body");
        }
    }

    private static void step(Map<String, Object> step) throws Exception {
        Map<String, Object> asked = object(filled(step.get("request")));
        Map<String, Object> expect = object(filled(step.get("expect")));
        Map<String, Object> tally = object(step.get("tally"));
        Map<String, Object> counts = new HashMap<>();
        long deadlineMs = System.nanoTime() / 1_000_000 + EVENTUALLY_MS;
        for (long sent = 1;; sent++) {
            HttpResponse<String> answer = send(asked);
            try {
                compare(expect, answer);
            } catch (Failed error) {
                if (!step.containsKey("eventually") || System.nanoTime() / 1_000_000 > deadlineMs) {
                    throw error;
                }
                Thread.sleep(50);
                continue;
            }
            for (Map.Entry<String, Object> save : object(step.get("save")).entrySet()) {
                String from = (String) save.getValue();
                boolean ofHeader = from.startsWith("header:");
                Object value = ofHeader ? header(answer, from.substring(7)) : object(Json.read(answer.body())).get(from);
                VARIABLES.put(save.getKey(), (String) value);
            }
            if (tally.isEmpty()) {
                return;
            }
            counts.merge(header(answer, (String) tally.get("header")), 1L, (a, b) -> (Long) a + (Long) b);
            if (tally.get("times").equals(sent)) {
                require(counts.equals(tally.get("counts")), counts);
                return;
            }
        }
    }

    private static int statusOf(Callable<?> call) throws Exception {
        try {
            call.call();
            return 200;
        } catch (MaxineException error) {
            return error.status;
        }
    }

    private static void eventually(int status, Callable<?> call) throws Exception {
        for (long slept = 0; statusOf(call) != status; slept += 50) {
            require(slept < EVENTUALLY_MS, status + " does not come");
            Thread.sleep(50);
        }
    }

    private static void client() throws Exception {
        List<String> nodes = new ArrayList<>(List.of("http://127.0.0.1:1"));
        nodes.addAll(List.of(NODES));
        Maxine maxine = new Maxine(nodes.toArray(new String[0]));
        String service = VARIABLES.get("unique") + "-client";
        String role = maxine.signIn(VARIABLES.get("viewerUser"), VARIABLES.get("viewerPassword"));
        require(role.equals("viewer"), role);
        require(statusOf(() -> maxine.changeConfig(Map.of())) == 403, "a viewer changes the configuration");
        require(statusOf(() -> maxine.discover(service, "")) == 503, "it is there before it is registered");
        Map<String, Object> registration = new HashMap<>(Map.of(
            "hostName", UPSTREAM[0], "port", UPSTREAM[1], "nodeName", "a", "serviceName", service, "timeOut", 1));
        // Five heartbeats take longer than a registration lives without heartbeats.
        CountDownLatch beats = new CountDownLatch(5);
        try (AutoCloseable kept = maxine.keepRegistered(registration, error -> beats.countDown())) {
            require(beats.await(EVENTUALLY_MS, TimeUnit.MILLISECONDS), "no five beats");
            check("http://" + String.join(":", UPSTREAM) + "/x?y=1", maxine.discover(service, "x?y=1"), "url");
            HttpResponse<String> called = maxine.call(service, "POST", "/x", "hello", Map.of());
            check("hello", object(Json.read(called.body())).get("body"), "what the upstream got");
            require(maxine.servers().containsKey(service), "it is not listed");
        }
        String poll = "/api/v1/changes?service=" + service + "&wait_ms=0";
        Object index = object(Json.read(maxine.send("GET", poll, null, Map.of()).body())).get("index");
        registration.put("nodeName", "b");
        maxine.register(registration);
        List<String> seen = new ArrayList<>();
        maxine.watch(service, (Long) index, change -> {
            seen.add(change.get("type") + " " + change.get("instance"));
            return !seen.contains("instance_removed b");
        });
        require(seen.contains("instance_registered b"), seen);
        eventually(503, () -> maxine.discover(service, ""));
    }

    private static void heartbeats() throws Exception {
        Maxine maxine = new Maxine("http://" + System.getenv("MAXINE_FAULTY"));
        Map<String, Object> registration =
            Map.of("hostName", "h", "nodeName", "a", "serviceName", VARIABLES.get("unique"));
        AtomicInteger failed = new AtomicInteger();
        CountDownLatch passed = new CountDownLatch(2);
        try (AutoCloseable kept = maxine.keepRegistered(registration, error -> {
            if (error == null) {
                passed.countDown();
            } else {
                failed.incrementAndGet();
            }
        })) {
            require(passed.await(EVENTUALLY_MS, TimeUnit.MILLISECONDS), "the heartbeats have ended");
        }
        require(failed.get() == FAULTY_ANSWERS, failed + " heartbeats failed");
    }

    /** Runs everything. The exit status is 1 if a case fails. */
    public static void main(String[] arguments) throws IOException {
        VARIABLES.put("unique", "java-" + UUID.randomUUID().toString().substring(0, 8));
        VARIABLES.put("upstreamHost", UPSTREAM[0]);
        VARIABLES.put("upstreamPort", UPSTREAM[1]);
        for (String role : List.of("admin", "operator", "viewer")) {
            String prefix = "MAXINE_" + role.toUpperCase();
            VARIABLES.put(role + "User", System.getenv(prefix + "_USERNAME"));
            VARIABLES.put(role + "Password", System.getenv(prefix + "_PASSWORD"));
        }
        List<?> cases = (List<?>) object(Json.read(Files.readString(Path.of(arguments[0])))).get("cases");
        int failed = 0;
        for (Object one : cases) {
            failed += run((String) object(one).get("name"), (List<?>) object(one).get("steps"), null);
        }
        failed += run("the client", List.of(), Conformance::client);
        failed += run("heartbeats to a faulty node", List.of(), Conformance::heartbeats);
        System.out.println(cases.size() + 2 - failed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }

    private interface Case {
        void run() throws Exception;
    }

    private static int run(String name, List<?> steps, Case own) {
        int at = 0;
        try {
            if (own != null) {
                own.run();
            }
            for (Object step : steps) {
                at++;
                step(object(step));
            }
            System.out.println("ok " + name);
            return 0;
        } catch (Exception error) {
            System.out.println("FAILED " + name + ", step " + at + ": " + error);
            return 1;
        }
    }
}

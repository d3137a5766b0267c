package maxine.client;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;

/**
 * The instances of a service that get traffic, as a watch keeps them. It goes on while no node answers.
 *
 * <p>The strategy and the policy need the role viewer to be read. Without it, instances are chosen in turn by weight.
 */
public final class Resolver implements AutoCloseable {
    /** The nodes send at least a comment every 10 s. */
    private static final long SILENCE_MAX_S = 15;
    private static final long RELOAD_PAUSE_MS = 20;
    private static final long AVOID_MS = 2_000;
    private static final long AVOID_MAX_MS = 60_000;

    private static final ScheduledExecutorService CLOCK = Executors.newSingleThreadScheduledExecutor(task -> {
        Thread thread = new Thread(task, "maxine-clock");
        thread.setDaemon(true);
        return thread;
    });

    /** What this client knows of an instance by itself. */
    private static final class Load {
        private final AtomicLong inFlight = new AtomicLong();
        private final AtomicInteger failures = new AtomicInteger();
        private volatile long avoidUntil;
        private volatile boolean avoided;

        private boolean admits() {
            return !avoided || System.nanoTime() - avoidUntil >= 0;
        }
    }

    private record State(List<Instance> instances, List<Load> loads, Balancer balancer, String from, String name, String sticky) {
    }

    /** An instance that was chosen for a request. It counts as in flight until it is closed. */
    public static final class Chosen implements AutoCloseable {
        private final Instance instance;
        private final Load load;
        private final Resolver resolver;
        private final long chosenAt;
        private final Tracer.Span span;
        private boolean over;

        private Chosen(Instance instance, Load load, Resolver resolver) {
            this.instance = instance;
            this.load = load;
            this.resolver = resolver;
            chosenAt = resolver.client.options.onCall() == null ? 0 : System.nanoTime();
            load.inFlight.incrementAndGet();
            span = resolver.client.options.tracer() == null ? null : resolver.client.begin(new Tracer.InstanceCall(
                resolver.client.options.namespace(), resolver.service, instance.id(), instance.address()));
        }

        /** The instance. */
        public Instance instance() {
            return instance;
        }

        /** The URL at which it is reached. */
        public String address() {
            return instance.address();
        }

        /** Header fields that pass the trace on, if the client has a tracer. Send them with the request. */
        public Map<String, String> headers() {
            return span == null ? Map.of() : span.headers();
        }

        /** The request is over. */
        @Override
        public void close() {
            end(Tracer.Outcome.DONE);
        }

        /** The instance could not be reached: it is avoided for some seconds. */
        public void failed() {
            end(new Tracer.Outcome(0, null, true));
        }

        /** The request is over, or has failed. The tracer gets what is known of its outcome. */
        public void end(Tracer.Outcome outcome) {
            if (over) {
                return;
            }
            over = true;
            MaxineClient.end(span, outcome);
            load.inFlight.decrementAndGet();
            if (outcome.failed()) {
                long pauseMs = Math.min(AVOID_MAX_MS, AVOID_MS << Math.min(10, load.failures.getAndIncrement()));
                load.avoidUntil = System.nanoTime() + pauseMs * 1_000_000;
                load.avoided = true;
            } else if (load.avoided) {
                load.failures.set(0);
                load.avoided = false;
            }
            tell(outcome.failed());
        }

        /** There was no request, or its outcome is not known. Its span does not end. */
        public void abandon() {
            if (!over) {
                over = true;
                load.inFlight.decrementAndGet();
            }
        }

        /** The same instance, for one more request. */
        public Chosen again() {
            return new Chosen(instance, load, resolver);
        }

        private void tell(boolean failed) {
            if (resolver.client.options.onCall() != null) {
                Duration duration = Duration.ofNanos(System.nanoTime() - chosenAt);
                MaxineClient.tell(resolver.client.options.onCall(), new MaxineClient.Call(resolver.service, instance.id(), duration, failed));
            }
        }
    }

    private final MaxineClient client;
    private final String service;
    private final String zone;
    private final AtomicLong turns = new AtomicLong();
    private final List<Consumer<List<Instance>>> listeners = new CopyOnWriteArrayList<>();
    private volatile State state;
    private volatile long currentAt;
    private volatile boolean closed;
    private volatile Nodes.Stream open;
    private String position;
    private Thread thread;

    Resolver(MaxineClient client, String service, String zone) {
        this.client = client;
        this.service = service;
        this.zone = zone;
    }

    /** The instances. */
    public List<Instance> instances() {
        return state.instances;
    }

    /** How long ago a node has confirmed the instances: up to 10 s while it is reached. */
    public Duration age() {
        return Duration.ofNanos(System.nanoTime() - currentAt);
    }

    /** Calls the listener with the instances after every change, in the thread of the watch. */
    public void onChange(Consumer<List<Instance>> listener) {
        listeners.add(listener);
    }

    /** Chooses an instance in turn, or for a caller of which nothing is known; null if there is none. */
    public Chosen choose() {
        return choose(Request.NONE);
    }

    /** Chooses an instance as a node would; null if there is none. Close the result at the end of the request. */
    public Chosen choose(Request request) {
        State now = state;
        long caller = now.balancer.hashes() ? request.hash(now.from, now.name) : 0;
        Long affinity = now.sticky == null ? null : request.hashOfField(now.sticky);
        Balancer.Draw draw =
            new Balancer.Draw(caller, affinity, at -> now.loads.get(at).admits(), at -> now.loads.get(at).inFlight.get());
        int at = now.balancer.choose(draw);
        if (at < 0 && !now.instances.isEmpty()) { // An instance that has failed is better than none.
            at = now.balancer.choose(new Balancer.Draw(caller, affinity, any -> true, draw.inFlight()));
        }
        return at < 0 ? null : new Chosen(now.instances.get(at), now.loads.get(at), this);
    }

    void start() throws IOException, InterruptedException {
        load(null);
        thread = new Thread(this::run, "maxine-watch-" + service);
        thread.setDaemon(true);
        thread.start();
    }

    /** Ends the watch. The instances stay as they are. */
    @Override
    public void close() {
        closed = true;
        thread.interrupt();
        Nodes.Stream stream = open;
        if (stream != null) {
            end(stream);
        }
    }

    private static Map<?, ?> object(Map<?, ?> in, String name) {
        return in.get(name) instanceof Map<?, ?> object ? object : Map.of();
    }

    private static long number(Map<?, ?> in, String name) {
        return in.get(name) instanceof Long number ? number : 0;
    }

    @SuppressWarnings("unchecked")
    private void load(String minIndex) throws IOException, InterruptedException {
        String path = client.path(service);
        Duration timeout = client.options.timeout();
        List<Instance> instances = new ArrayList<>();
        String read = null;
        String cursor = "";
        try {
            while (cursor != null) {
                String atLeast = read != null ? read : minIndex;
                Nodes.Answer page = client.nodes.json("GET", path + "/instances?health=routable&limit=1000"
                    + (atLeast == null ? "" : "&min_index=" + atLeast)
                    + (cursor.isEmpty() ? "" : "&cursor=" + MaxineClient.encoded(cursor)), null, timeout);
                if (read == null) { // The watch continues from the oldest page.
                    read = page.headers().firstValue("x-maxine-history").orElseThrow() + "-"
                        + page.headers().firstValue("x-maxine-index").orElseThrow();
                }
                for (Object item : (List<?>) page.object().get("items")) {
                    instances.add(Instance.of((Map<String, Object>) item));
                }
                cursor = (String) page.object().get("next_cursor");
            }
        } catch (MaxineClientException error) {
            if (error.status() == 410 && minIndex != null) { // Another history has begun.
                load(null);
                return;
            }
            if (error.status() != 404 || error.problem() == null) {
                throw error;
            }
            instances.clear();
            read = null;
        }
        Map<?, ?> found = Map.of();
        try {
            found = client.nodes.json("GET", path, null, timeout).object();
        } catch (MaxineClientException error) {
            if (error.status() != 401 && error.status() != 403 && error.status() != 404) {
                throw error;
            }
        }
        State before = state;
        state = stateOf(found, List.copyOf(instances), before);
        position = read;
        currentAt = System.nanoTime();
        if (before == null || !before.instances.equals(state.instances)) {
            listeners.forEach(listener -> listener.accept(state.instances));
        }
    }

    private State stateOf(Map<?, ?> found, List<Instance> instances, State before) {
        Map<?, ?> policy = object(found, "policy");
        Map<?, ?> traffic = object(policy, "traffic");
        Map<?, ?> zones = object(traffic, "zone");
        Map<?, ?> key = object(object(policy, "selection"), "hash_key");
        List<Balancer.Share> split = new ArrayList<>();
        if (traffic.get("split") instanceof List<?> shares) {
            for (Object one : shares) {
                Map<?, ?> share = (Map<?, ?>) one;
                split.add(new Balancer.Share((String) share.get("version"), (int) number(share, "weight")));
            }
        }
        String strategy = found.get("strategy") instanceof String text ? text : "round_robin";
        Balancer.Plan plan = new Balancer.Plan(strategy, split, zones.isEmpty() ? null : zone,
            number(zones, "local_instances_min"), number(zones, "spill_in_flight"));
        Map<String, Load> known = new HashMap<>();
        for (int at = 0; before != null && at < before.instances.size(); at++) {
            known.put(before.instances.get(at).id(), before.loads.get(at));
        }
        List<Load> loads = instances.stream().map(one -> known.getOrDefault(one.id(), new Load())).toList();
        String from = key.get("from") instanceof String text ? text : "client_address";
        String sticky = (String) object(object(traffic, "sticky"), "header").get("name");
        return new State(instances, loads, new Balancer(plan, instances, turns), from, (String) key.get("name"), sticky);
    }

    private void run() {
        while (!closed) {
            try {
                watch();
            } catch (InterruptedException error) {
                return;
            } catch (IOException | RuntimeException error) {
                if (!closed) {
                    client.report(error);
                    pause(500);
                }
            }
        }
    }

    private void pause(long timeMs) {
        try {
            Thread.sleep(timeMs);
        } catch (InterruptedException error) {
            closed = true;
        }
    }

    private void watch() throws IOException, InterruptedException {
        String path = "/api/v1/watch?namespace=" + MaxineClient.encoded(client.options.namespace())
            + "&service=" + MaxineClient.encoded(service);
        Nodes.Stream stream = client.nodes.stream(path, position);
        open = stream;
        ScheduledFuture<?> silence = null;
        try (BufferedReader lines = new BufferedReader(new InputStreamReader(stream.body(), StandardCharsets.UTF_8))) {
            silence = endAfterSilence(stream);
            String id = null;
            String event = null;
            for (String line = lines.readLine(); line != null && !closed; line = lines.readLine()) {
                if (line.startsWith("id: ")) {
                    id = line.substring(4);
                } else if (line.startsWith("event: ")) {
                    event = line.substring(7);
                } else if (line.isEmpty()) {
                    silence.cancel(false);
                    silence = endAfterSilence(stream);
                    if (take(stream.node(), id, event)) {
                        return;
                    }
                    id = null;
                    event = null;
                }
            }
        } catch (MaxineClientException error) {
            throw error; // An error of another request says nothing about this node.
        } catch (IOException error) {
            client.nodes.failed(stream.node(), -1);
            throw error;
        } finally {
            if (silence != null) {
                silence.cancel(false);
            }
        }
    }

    private static ScheduledFuture<?> endAfterSilence(Nodes.Stream stream) {
        return CLOCK.schedule(() -> end(stream), SILENCE_MAX_S, TimeUnit.SECONDS);
    }

    private static void end(Nodes.Stream stream) {
        try {
            stream.body().close();
        } catch (IOException error) {
            // The reader gets the same error.
        }
    }

    /** Handles one event. Returns whether the stream is over. A comment that only updates the id has no name. */
    private boolean take(Nodes.Node node, String id, String event) throws IOException, InterruptedException {
        if ("ready".equals(event)) {
            client.nodes.worked(node);
            if (position == null) { // Something may have changed between the list and this stream.
                load(null);
            }
        } else if ("compacted".equals(event)) {
            position = null;
            load(null);
            return true;
        } else if (event != null && indexOf(id) > indexOf(position)) {
            Thread.sleep(RELOAD_PAUSE_MS); // Changes that arrive together are read together.
            load(id);
        }
        if (indexOf(id) > indexOf(position)) {
            position = id;
        }
        currentAt = System.nanoTime();
        return false;
    }

    /** The index in a position such as {@code 5f3a9c0027e1b4d8-1234}; -1 if there is no position. */
    private static long indexOf(String position) {
        return position == null ? -1 : Long.parseLong(position.substring(position.lastIndexOf('-') + 1));
    }
}

package maxine.client;

import java.io.IOException;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/** An instance that is kept registered. */
public final class Registration implements AutoCloseable {
    final String service;
    final String instance;
    final AtomicBoolean stopped = new AtomicBoolean();
    final AtomicLong beats = new AtomicLong();
    final AtomicLong renewals = new AtomicLong();
    private final MaxineClient client;
    private final Map<String, Object> body;
    private volatile Object leaseEpoch;

    Registration(MaxineClient client, String service, String instance, Map<String, Object> body) {
        this.client = client;
        this.service = service;
        this.instance = instance;
        this.body = body;
    }

    long ttlMs() {
        return ((Number) body.get("ttl_ms")).longValue();
    }

    void renew() throws IOException, InterruptedException {
        String path = client.path(service, "instances", instance);
        leaseEpoch = client.nodes.json("PUT", path, body, client.options.timeout()).object().get("lease_epoch");
    }

    /** Number of heartbeats that were answered. */
    public long beats() {
        return beats.get();
    }

    /** How often the cluster had lost the instance. */
    public long renewals() {
        return renewals.get();
    }

    /** Deregisters, so that callers choose other instances. An error goes to {@code onError}: the lease expires then. */
    @Override
    public void close() {
        if (stopped.getAndSet(true)) {
            return;
        }
        client.forget(this);
        try {
            // A successor with the same name has another epoch, and stays.
            String path = client.path(service, "instances", instance) + "?lease_epoch=" + leaseEpoch;
            client.nodes.json("DELETE", path, null, client.options.timeout());
        } catch (IOException error) {
            client.report(error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }
}

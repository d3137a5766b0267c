package maxine.spring;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import maxine.client.MaxineClient;
import maxine.client.Registration;
import org.springframework.cloud.client.serviceregistry.ServiceRegistry;

/** Keeps instances registered. */
public class MaxineServiceRegistry implements ServiceRegistry<MaxineRegistration> {
    /** The status of an instance that is registered. */
    public static final String UP = "UP";
    /** The status of an instance that is not registered. */
    public static final String OUT_OF_SERVICE = "OUT_OF_SERVICE";

    private final MaxineClient client;
    private final Map<MaxineRegistration, Registration> kept = new ConcurrentHashMap<>();

    MaxineServiceRegistry(MaxineClient client) {
        this.client = client;
    }

    /** Registers an instance, and keeps it registered. It throws an {@link UncheckedIOException} if no node accepts it in time. */
    @Override
    public synchronized void register(MaxineRegistration registration) {
        if (kept.containsKey(registration)) {
            return;
        }
        try {
            kept.put(registration, client.register(registration.getServiceId(), registration.getInstanceId(),
                registration.getUri().toString(), registration.body()));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new UncheckedIOException(new IOException("interrupted", error));
        }
    }

    @Override
    public synchronized void deregister(MaxineRegistration registration) {
        Registration one = kept.remove(registration);
        if (one != null) {
            one.close();
        }
    }

    /** {@code UP} registers an instance; any other status deregisters it. */
    @Override
    public void setStatus(MaxineRegistration registration, String status) {
        if (UP.equalsIgnoreCase(status)) {
            register(registration);
        } else {
            deregister(registration);
        }
    }

    /** Whether the instance is registered. */
    public boolean has(MaxineRegistration registration) {
        return kept.containsKey(registration);
    }

    /** The text {@code UP} if the instance is registered, otherwise {@code OUT_OF_SERVICE}. */
    @Override
    @SuppressWarnings("unchecked") // The interface leaves the type to the caller.
    public <T> T getStatus(MaxineRegistration registration) {
        return (T) (has(registration) ? UP : OUT_OF_SERVICE);
    }

    @Override
    public synchronized void close() {
        kept.values().forEach(Registration::close);
        kept.clear();
    }
}

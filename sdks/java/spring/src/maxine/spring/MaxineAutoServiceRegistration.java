package maxine.spring;

import java.time.Duration;
import org.apache.commons.logging.Log;
import org.apache.commons.logging.LogFactory;
import org.springframework.boot.availability.AvailabilityChangeEvent;
import org.springframework.boot.availability.ReadinessState;
import org.springframework.cloud.client.serviceregistry.AutoServiceRegistration;
import org.springframework.context.ApplicationListener;
import org.springframework.context.SmartLifecycle;

/**
 * Registers this application while it accepts traffic. At its end it deregisters first, then waits for the callers that do
 * not know that yet. Only after that the server stops to accept requests.
 */
public class MaxineAutoServiceRegistration
        implements AutoServiceRegistration, SmartLifecycle, ApplicationListener<AvailabilityChangeEvent<?>> {
    private static final Log LOG = LogFactory.getLog(MaxineAutoServiceRegistration.class);
    private static final long RETRY_PAUSE_MS = 1_000;

    private final MaxineServiceRegistry registry;
    private final MaxineRegistration registration;
    private final Duration drain;
    private volatile boolean running;
    private Thread registering;
    private long deregisteredAt;
    private boolean wasRegistered;

    MaxineAutoServiceRegistration(MaxineServiceRegistry registry, MaxineRegistration registration, Duration drain) {
        this.registry = registry;
        this.registration = registration;
        this.drain = drain;
    }

    /** Spring Boot accepts traffic when the application has started, and refuses it from the beginning of its end. */
    @Override
    public void onApplicationEvent(AvailabilityChangeEvent<?> event) {
        if (event.getState() == ReadinessState.ACCEPTING_TRAFFIC) {
            begin();
        } else if (event.getState() == ReadinessState.REFUSING_TRAFFIC) {
            end();
        }
    }

    private synchronized void begin() {
        if (registering != null) {
            return;
        }
        if (!registration.isReady()) {
            LOG.info("not registered: there is no server, and maxine.register.address is not set");
            return;
        }
        // The application starts although no node answers.
        registering = new Thread(this::register, "maxine-register");
        registering.setDaemon(true);
        registering.start();
    }

    private void register() {
        while (!Thread.currentThread().isInterrupted()) {
            try {
                registry.register(registration);
                LOG.info("registered " + registration.getServiceId() + "/" + registration.getInstanceId() + " at " + registration.getUri());
                return;
            } catch (RuntimeException error) {
                LOG.warn("not registered yet: " + error.getMessage());
            }
            try {
                Thread.sleep(RETRY_PAUSE_MS);
            } catch (InterruptedException error) {
                return;
            }
        }
    }

    private synchronized void end() {
        if (registering == null) {
            return;
        }
        registering.interrupt();
        try {
            registering.join();
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
        registering = null;
        if (registry.has(registration)) {
            registry.deregister(registration);
            wasRegistered = true;
            deregisteredAt = System.nanoTime();
        }
    }

    @Override
    public void start() {
        running = true;
    }

    /** The phases of the server end after this one, which is the last one that starts. */
    @Override
    public void stop() {
        end();
        running = false;
        long leftMs = wasRegistered ? drain.toMillis() - (System.nanoTime() - deregisteredAt) / 1_000_000 : 0;
        try {
            Thread.sleep(Math.max(0, leftMs));
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }

    @Override
    public boolean isRunning() {
        return running;
    }
}

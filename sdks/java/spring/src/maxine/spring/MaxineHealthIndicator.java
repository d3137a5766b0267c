package maxine.spring;

import java.time.Duration;
import java.util.Map;
import maxine.client.Resolver;
import org.springframework.boot.actuate.health.AbstractHealthIndicator;
import org.springframework.boot.actuate.health.Health;
import org.springframework.boot.actuate.health.Status;

/**
 * Says how old the instances are that this application knows. It is never DOWN: without a node, the application continues
 * with the instances that it knows, and a restart would lose them.
 */
public class MaxineHealthIndicator extends AbstractHealthIndicator {
    /** A node confirms the instances every 10 s, and is given up after 15 s of silence. */
    private static final Duration AGE_MAX = Duration.ofSeconds(30);

    private final MaxineResolvers resolvers;
    private final MaxineServiceRegistry registry;
    private final MaxineRegistration registration;

    MaxineHealthIndicator(MaxineResolvers resolvers, MaxineServiceRegistry registry, MaxineRegistration registration) {
        this.resolvers = resolvers;
        this.registry = registry;
        this.registration = registration;
    }

    @Override
    protected void doHealthCheck(Health.Builder builder) {
        builder.status(Status.UP).withDetail("registration", registry.<String>getStatus(registration));
        for (Map.Entry<String, Resolver> one : resolvers.all().entrySet()) {
            Duration age = one.getValue().age();
            if (age.compareTo(AGE_MAX) > 0) {
                builder.status(Status.UNKNOWN);
            }
            builder.withDetail("service." + one.getKey(),
                Map.of("instances", one.getValue().instances().size(), "confirmedMsAgo", age.toMillis()));
        }
    }
}

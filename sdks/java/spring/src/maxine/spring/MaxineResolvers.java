package maxine.spring;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import maxine.client.MaxineClient;
import maxine.client.Resolver;

/** One resolver for each service that this application has asked for. The client closes them. */
public class MaxineResolvers {
    private final MaxineClient client;
    private final String zone;
    private final Map<String, Resolver> resolvers = new ConcurrentHashMap<>();

    MaxineResolvers(MaxineClient client, String zone) {
        this.client = client;
        this.zone = zone;
    }

    /** The resolver of a service. The first call for a service waits until its instances were read. */
    public Resolver get(String service) {
        Resolver known = resolvers.get(service);
        return known != null ? known : resolvers.computeIfAbsent(service, this::read);
    }

    boolean knows(String service) {
        return resolvers.containsKey(service);
    }

    private Resolver read(String service) {
        try {
            return client.resolver(service, zone);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new UncheckedIOException(new IOException("interrupted", error));
        }
    }

    /** The resolvers until now, by the names of their services. */
    public Map<String, Resolver> all() {
        return new TreeMap<>(resolvers);
    }
}

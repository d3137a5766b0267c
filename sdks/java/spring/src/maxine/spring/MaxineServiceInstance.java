package maxine.spring;

import java.net.URI;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import maxine.client.Instance;
import maxine.client.Resolver;
import maxine.client.Tracer;
import org.springframework.cloud.client.ServiceInstance;

/** An instance as Spring Cloud sees it. Its metadata also has the zone and the version, as {@code zone} and {@code version}. */
public final class MaxineServiceInstance implements ServiceInstance {
    private final String service;
    private final Instance instance;
    private final URI uri;
    private final Map<String, String> metadata = new LinkedHashMap<>();
    private Resolver.Chosen chosen;

    MaxineServiceInstance(String service, Instance instance) {
        this.service = service;
        this.instance = instance;
        uri = URI.create(instance.address());
        if (instance.fields().get("metadata") instanceof Map<?, ?> own) {
            own.forEach((name, value) -> metadata.put((String) name, (String) value));
        }
        if (instance.zone() != null) {
            metadata.putIfAbsent("zone", instance.zone());
        }
        if (instance.version() != null) {
            metadata.putIfAbsent("version", instance.version());
        }
    }

    /** The instance that was chosen, before a request. */
    static MaxineServiceInstance of(String service, Resolver.Chosen chosen) {
        MaxineServiceInstance one = new MaxineServiceInstance(service, chosen.instance());
        one.chosen = chosen;
        chosen.abandon();
        return one;
    }

    static List<ServiceInstance> all(String service, List<Instance> instances) {
        return instances.stream().<ServiceInstance>map(one -> new MaxineServiceInstance(service, one)).toList();
    }

    /** A request begins. */
    synchronized void begin() {
        if (chosen != null) {
            chosen = chosen.again();
        }
    }

    /** The request is over. */
    synchronized void end(Tracer.Outcome outcome) {
        if (chosen != null) {
            chosen.end(outcome);
        }
    }

    /** The instance as the client has it, with its weight, zone and version. */
    public Instance instance() {
        return instance;
    }

    @Override
    public String getInstanceId() {
        return instance.id();
    }

    @Override
    public String getServiceId() {
        return service;
    }

    @Override
    public String getHost() {
        return uri.getHost();
    }

    @Override
    public int getPort() {
        return uri.getPort() >= 0 ? uri.getPort() : isSecure() ? 443 : 80;
    }

    @Override
    public boolean isSecure() {
        return "https".equals(uri.getScheme());
    }

    @Override
    public String getScheme() {
        return uri.getScheme();
    }

    @Override
    public URI getUri() {
        return uri;
    }

    @Override
    public Map<String, String> getMetadata() {
        return metadata;
    }

    @Override
    public String toString() {
        return service + "/" + instance.id() + " at " + uri;
    }
}

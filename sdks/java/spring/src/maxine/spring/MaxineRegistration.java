package maxine.spring;

import java.net.URI;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.Stream;
import org.springframework.cloud.client.serviceregistry.Registration;
import org.springframework.cloud.commons.util.InetUtils;
import org.springframework.core.env.Environment;

/** How this application is registered. The port is known when the server has started. */
public class MaxineRegistration implements Registration {
    private final MaxineProperties properties;
    private final Environment environment;
    private final InetUtils network;

    MaxineRegistration(MaxineProperties properties, Environment environment, InetUtils network) {
        this.properties = properties;
        this.environment = environment;
        this.network = network;
    }

    /** Whether the address is known: it is set, or a server has started. */
    public boolean isReady() {
        return properties.getRegister().getAddress() != null || environment.getProperty("local.server.port") != null;
    }

    /** What the API gets, except for the address. */
    Map<String, Object> body() {
        MaxineProperties.Register register = properties.getRegister();
        Map<String, Object> body = new HashMap<>();
        body.put("ttl_ms", register.getTtl().toMillis());
        body.put("metadata", register.getMetadata());
        body.put("tags", register.getTags());
        putIfSet(body, "weight", register.getWeight() == null ? null : register.getWeight().longValue());
        putIfSet(body, "version", register.getVersion());
        putIfSet(body, "zone", properties.getZone());
        return body;
    }

    private static void putIfSet(Map<String, Object> body, String name, Object value) {
        if (value != null) {
            body.put(name, value);
        }
    }

    @Override
    public String getServiceId() {
        String own = properties.getRegister().getService();
        return own != null ? own : environment.getProperty("spring.application.name", "application");
    }

    @Override
    public String getInstanceId() {
        String own = properties.getRegister().getInstance();
        return own != null ? own : getHost() + "-" + getPort();
    }

    @Override
    public URI getUri() {
        String own = properties.getRegister().getAddress();
        if (own != null) {
            return URI.create(own);
        }
        // An IPv6 address needs brackets.
        String host = host().indexOf(':') >= 0 ? "[" + host() + "]" : host();
        return URI.create((servesTls() ? "https" : "http") + "://" + host + ":" + environment.getProperty("local.server.port"));
    }

    private String host() {
        String own = properties.getRegister().getHost();
        return own != null ? own : network.findFirstNonLoopbackHostInfo().getIpAddress();
    }

    private boolean servesTls() {
        return environment.getProperty("server.ssl.enabled", Boolean.class, true)
            && Stream.of("bundle", "key-store", "certificate").anyMatch(name -> environment.getProperty("server.ssl." + name) != null);
    }

    @Override
    public String getHost() {
        return getUri().getHost();
    }

    @Override
    public int getPort() {
        URI uri = getUri();
        return uri.getPort() >= 0 ? uri.getPort() : isSecure() ? 443 : 80;
    }

    @Override
    public boolean isSecure() {
        return "https".equals(getUri().getScheme());
    }

    @Override
    public String getScheme() {
        return getUri().getScheme();
    }

    @Override
    public Map<String, String> getMetadata() {
        return properties.getRegister().getMetadata();
    }
}

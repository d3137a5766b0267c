package maxine.spring;

import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.springframework.boot.context.properties.ConfigurationProperties;

/** The settings, which begin with {@code maxine}. */
@ConfigurationProperties("maxine")
public class MaxineProperties {
    /** Whether this starter does anything. */
    private boolean enabled = true;
    /** The nodes of the cluster, such as http://10.0.0.1:8080. */
    private List<String> servers = new ArrayList<>(List.of("http://127.0.0.1:8080"));
    /** The namespace of this application, and of the services that it calls. */
    private String namespace = "default";
    /** A session token or an API token. */
    private String token;
    /** A file with the token. It is read for each request. */
    private Path tokenFile;
    /** The certificates that https nodes are checked with; by default those of the JDK. */
    private Path caFile;
    /** The zone of this application. */
    private String zone;
    private final Oidc oidc = new Oidc();
    private final Register register = new Register();

    /** The OpenID provider that gives this application its tokens. */
    public static class Oidc {
        /** The URL of the provider, whose /.well-known/openid-configuration names the token endpoint. */
        private String issuer;
        /** The token endpoint itself, instead of the issuer. */
        private String tokenUrl;
        /** The name of this application at the provider. Without it no tokens are fetched. */
        private String clientId;
        /** A file with the secret of this application, read for each fetch. */
        private Path clientSecretFile;
        /** The name of the environment variable with the secret, instead of a file. */
        private String clientSecretEnv;
        /** The scopes, separated by spaces. */
        private String scope;
        /** For whom the tokens are, for providers that read "audience". */
        private String audience;
        /** For whom the tokens are, for providers that read "resource" (RFC 8707). */
        private String resource;
        /** The certificates that the provider is checked with; by default those of the JDK. */
        private Path caFile;

        public String getIssuer() {
            return issuer;
        }

        public void setIssuer(String issuer) {
            this.issuer = issuer;
        }

        public String getTokenUrl() {
            return tokenUrl;
        }

        public void setTokenUrl(String tokenUrl) {
            this.tokenUrl = tokenUrl;
        }

        public String getClientId() {
            return clientId;
        }

        public void setClientId(String clientId) {
            this.clientId = clientId;
        }

        public Path getClientSecretFile() {
            return clientSecretFile;
        }

        public void setClientSecretFile(Path clientSecretFile) {
            this.clientSecretFile = clientSecretFile;
        }

        public String getClientSecretEnv() {
            return clientSecretEnv;
        }

        public void setClientSecretEnv(String clientSecretEnv) {
            this.clientSecretEnv = clientSecretEnv;
        }

        public String getScope() {
            return scope;
        }

        public void setScope(String scope) {
            this.scope = scope;
        }

        public String getAudience() {
            return audience;
        }

        public void setAudience(String audience) {
            this.audience = audience;
        }

        public String getResource() {
            return resource;
        }

        public void setResource(String resource) {
            this.resource = resource;
        }

        public Path getCaFile() {
            return caFile;
        }

        public void setCaFile(Path caFile) {
            this.caFile = caFile;
        }
    }

    /** How this application is registered. */
    public static class Register {
        /** Whether this application registers itself. */
        private boolean enabled = true;
        /** The name of the service; by default spring.application.name. */
        private String service;
        /** The name of the instance in its service; by default made of the host and the port. */
        private String instance;
        /** The URL at which others reach this application; by default made of the scheme, the host and the port of the server. */
        private String address;
        /** The host in the address; by default the one that Spring Cloud finds (spring.cloud.inetutils). */
        private String host;
        /** How long the registration lives without a heartbeat. */
        private Duration ttl = Duration.ofSeconds(10);
        /** The time between the end of the registration and the end of the server, in which callers learn that it has ended. */
        private Duration drain = Duration.ofSeconds(2);
        /** The share of the traffic, relative to the other instances. */
        private Integer weight;
        /** The version of this application. */
        private String version;
        private List<String> tags = new ArrayList<>();
        private Map<String, String> metadata = new LinkedHashMap<>();

        public boolean isEnabled() {
            return enabled;
        }

        public void setEnabled(boolean enabled) {
            this.enabled = enabled;
        }

        public String getService() {
            return service;
        }

        public void setService(String service) {
            this.service = service;
        }

        public String getInstance() {
            return instance;
        }

        public void setInstance(String instance) {
            this.instance = instance;
        }

        public String getAddress() {
            return address;
        }

        public void setAddress(String address) {
            this.address = address;
        }

        public String getHost() {
            return host;
        }

        public void setHost(String host) {
            this.host = host;
        }

        public Duration getTtl() {
            return ttl;
        }

        public void setTtl(Duration ttl) {
            this.ttl = ttl;
        }

        public Duration getDrain() {
            return drain;
        }

        public void setDrain(Duration drain) {
            this.drain = drain;
        }

        public Integer getWeight() {
            return weight;
        }

        public void setWeight(Integer weight) {
            this.weight = weight;
        }

        public String getVersion() {
            return version;
        }

        public void setVersion(String version) {
            this.version = version;
        }

        public List<String> getTags() {
            return tags;
        }

        public void setTags(List<String> tags) {
            this.tags = tags;
        }

        public Map<String, String> getMetadata() {
            return metadata;
        }

        public void setMetadata(Map<String, String> metadata) {
            this.metadata = metadata;
        }
    }

    public Oidc getOidc() {
        return oidc;
    }

    public Register getRegister() {
        return register;
    }

    public boolean isEnabled() {
        return enabled;
    }

    public void setEnabled(boolean enabled) {
        this.enabled = enabled;
    }

    public List<String> getServers() {
        return servers;
    }

    public void setServers(List<String> servers) {
        this.servers = servers;
    }

    public String getNamespace() {
        return namespace;
    }

    public void setNamespace(String namespace) {
        this.namespace = namespace;
    }

    public String getToken() {
        return token;
    }

    public void setToken(String token) {
        this.token = token;
    }

    public Path getTokenFile() {
        return tokenFile;
    }

    public void setTokenFile(Path tokenFile) {
        this.tokenFile = tokenFile;
    }

    public Path getCaFile() {
        return caFile;
    }

    public void setCaFile(Path caFile) {
        this.caFile = caFile;
    }

    public String getZone() {
        return zone;
    }

    public void setZone(String zone) {
        this.zone = zone;
    }
}

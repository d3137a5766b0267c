package maxine.spring;

import java.io.IOException;
import maxine.client.ClientCredentials;
import maxine.client.MaxineClient;
import maxine.client.Tracer;
import org.apache.commons.logging.Log;
import org.apache.commons.logging.LogFactory;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.cloud.client.ConditionalOnBlockingDiscoveryEnabled;
import org.springframework.cloud.client.ConditionalOnDiscoveryEnabled;
import org.springframework.cloud.client.ConditionalOnReactiveDiscoveryEnabled;
import org.springframework.cloud.commons.util.InetUtils;
import org.springframework.cloud.loadbalancer.annotation.LoadBalancerClients;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.env.Environment;

/** Everything that an application gets from this starter. Each bean of its own replaces one of these. */
@AutoConfiguration(
    beforeName = {
        "org.springframework.cloud.client.discovery.simple.SimpleDiscoveryClientAutoConfiguration",
        "org.springframework.cloud.client.CommonsClientAutoConfiguration",
        "org.springframework.cloud.loadbalancer.config.LoadBalancerAutoConfiguration",
    },
    afterName = "org.springframework.cloud.commons.util.UtilAutoConfiguration")
@ConditionalOnProperty(name = "maxine.enabled", matchIfMissing = true)
@EnableConfigurationProperties(MaxineProperties.class)
public class MaxineAutoConfiguration {
    private static final Log LOG = LogFactory.getLog(MaxineClient.class);

    @Bean(destroyMethod = "close")
    @ConditionalOnMissingBean
    MaxineClient maxineClient(MaxineProperties properties, ObjectProvider<Tracer> tracer) throws IOException {
        return new MaxineClient(properties.getServers(), MaxineClient.Options.DEFAULT
            .withNamespace(properties.getNamespace())
            .withToken(properties.getToken())
            .withTokenFile(properties.getTokenFile())
            .withCredentials(credentials(properties.getOidc()))
            .withCaFile(properties.getCaFile())
            .withTracer(tracer.getIfAvailable())
            .withOnError(error -> LOG.warn(error.getMessage())));
    }

    private static ClientCredentials credentials(MaxineProperties.Oidc oidc) throws IOException {
        if (oidc.getClientId() == null) {
            return null;
        }
        return ClientCredentials.builder(oidc.getClientId()).issuer(oidc.getIssuer()).tokenUrl(oidc.getTokenUrl())
            .clientSecretFile(oidc.getClientSecretFile()).clientSecretEnv(oidc.getClientSecretEnv())
            .scope(oidc.getScope()).audience(oidc.getAudience()).resource(oidc.getResource())
            .caFile(oidc.getCaFile()).onError(error -> LOG.warn(error.getMessage())).build();
    }

    @Bean
    MaxineResolvers maxineResolvers(MaxineClient client, MaxineProperties properties) {
        return new MaxineResolvers(client, properties.getZone());
    }

    @Bean
    @ConditionalOnMissingBean
    MaxineRegistration maxineRegistration(MaxineProperties properties, Environment environment, InetUtils network) {
        return new MaxineRegistration(properties, environment, network);
    }

    @Bean(destroyMethod = "close")
    MaxineServiceRegistry maxineServiceRegistry(MaxineClient client) {
        return new MaxineServiceRegistry(client);
    }

    @Bean
    @ConditionalOnProperty(name = {"maxine.register.enabled", "spring.cloud.service-registry.auto-registration.enabled"}, matchIfMissing = true)
    MaxineAutoServiceRegistration maxineAutoServiceRegistration(MaxineServiceRegistry registry,
            MaxineRegistration registration, MaxineProperties properties) {
        return new MaxineAutoServiceRegistration(registry, registration, properties.getRegister().getDrain());
    }

    /** {@code DiscoveryClient}. */
    @Configuration(proxyBeanMethods = false)
    @ConditionalOnDiscoveryEnabled
    @ConditionalOnBlockingDiscoveryEnabled
    static class Blocking {
        @Bean
        MaxineDiscoveryClient maxineDiscoveryClient(MaxineClient client, MaxineResolvers resolvers) {
            return new MaxineDiscoveryClient(client, resolvers);
        }
    }

    /** {@code ReactiveDiscoveryClient}. */
    @Configuration(proxyBeanMethods = false)
    @ConditionalOnDiscoveryEnabled
    @ConditionalOnReactiveDiscoveryEnabled
    static class Reactive {
        @Bean
        MaxineReactiveDiscoveryClient maxineReactiveDiscoveryClient(MaxineClient client, MaxineResolvers resolvers) {
            return new MaxineReactiveDiscoveryClient(new MaxineDiscoveryClient(client, resolvers));
        }
    }

    /** For applications that use Spring Cloud LoadBalancer. */
    @Configuration(proxyBeanMethods = false)
    @ConditionalOnProperty(name = "maxine.loadbalancer.enabled", matchIfMissing = true)
    @LoadBalancerClients(defaultConfiguration = MaxineLoadBalancerConfiguration.class)
    static class LoadBalancing {
    }

    /** For applications with Actuator. */
    @Configuration(proxyBeanMethods = false)
    @ConditionalOnClass(HealthIndicator.class)
    @ConditionalOnProperty(name = "management.health.maxine.enabled", matchIfMissing = true)
    static class Health {
        @Bean
        MaxineHealthIndicator maxineHealthIndicator(MaxineResolvers resolvers, MaxineServiceRegistry registry, MaxineRegistration registration) {
            return new MaxineHealthIndicator(resolvers, registry, registration);
        }
    }
}

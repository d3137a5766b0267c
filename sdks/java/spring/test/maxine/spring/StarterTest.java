package maxine.spring;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.stream.Collectors;
import maxine.client.MaxineClient;
import maxine.client.Tracer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.availability.AvailabilityChangeEvent;
import org.springframework.boot.availability.ReadinessState;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.discovery.DiscoveryClient;
import org.springframework.cloud.client.discovery.ReactiveDiscoveryClient;
import org.springframework.cloud.client.loadbalancer.LoadBalanced;
import org.springframework.cloud.client.loadbalancer.LoadBalancerClient;
import org.springframework.cloud.loadbalancer.core.ServiceInstanceListSupplier;
import org.springframework.cloud.loadbalancer.support.LoadBalancerClientFactory;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.env.Environment;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;
import org.springframework.web.client.RestTemplate;

/** Real applications with a web server each, against a real cluster. */
@EnabledIfEnvironmentVariable(named = "MAXINE_SERVER", matches = ".+")
class StarterTest {
    /** Says which instance has answered. */
    @Configuration(proxyBeanMethods = false)
    @EnableAutoConfiguration
    @RestController
    static class Payments {
        private final Environment environment;

        Payments(Environment environment) {
            this.environment = environment;
        }

        @GetMapping("/who")
        String who() {
            return environment.getRequiredProperty("maxine.register.instance");
        }
    }

    @Configuration(proxyBeanMethods = false)
    @EnableAutoConfiguration
    static class Orders {
        @Bean
        @LoadBalanced
        RestClient.Builder restClientBuilder() {
            return RestClient.builder();
        }

        /** Notes how each use of an instance has ended. */
        @Bean
        Tracer tracer() {
            return about -> about instanceof Tracer.NodeRequest ? null : new Tracer.Span() {
                @Override
                public Map<String, String> headers() {
                    return Map.of();
                }

                @Override
                public void end(Tracer.Outcome outcome) {
                    OUTCOMES.add(outcome);
                }
            };
        }

        @Bean
        @LoadBalanced
        RestTemplate restTemplate() {
            return new RestTemplate();
        }
    }

    private static final List<Tracer.Outcome> OUTCOMES = new CopyOnWriteArrayList<>();

    private final String payments = "payments-" + System.nanoTime();
    private final List<ConfigurableApplicationContext> running = new ArrayList<>();

    @AfterEach
    void stop() {
        running.forEach(ConfigurableApplicationContext::close);
    }

    private ConfigurableApplicationContext start(Class<?> application, String service, String... settings) {
        Map<String, Object> defaults = Map.of("server.port", "0", "server.address", "127.0.0.1", "spring.application.name", service,
            "maxine.servers", System.getenv("MAXINE_SERVER"), "maxine.register.host", "127.0.0.1", "maxine.register.drain", "200ms",
            "spring.jmx.enabled", "false", "management.endpoint.health.show-details", "always");
        String[] arguments = List.of(settings).stream().map(one -> "--" + one).toArray(String[]::new);
        ConfigurableApplicationContext context = new SpringApplicationBuilder(application).properties(defaults)
            .bannerMode(org.springframework.boot.Banner.Mode.OFF).logStartupInfo(false).run(arguments);
        running.add(context);
        return context;
    }

    private static void until(String what, Callable<Boolean> condition) throws Exception {
        for (long deadline = System.nanoTime() + 30_000_000_000L; !condition.call();) {
            assertTrue(System.nanoTime() < deadline, "not in time: " + what);
            Thread.sleep(10);
        }
    }

    private Set<String> ids(ConfigurableApplicationContext application) {
        return application.getBean(MaxineDiscoveryClient.class).getInstances(payments).stream()
            .map(ServiceInstance::getInstanceId).collect(Collectors.toSet());
    }

    @Test
    void oneApplicationFindsTheOther() throws Exception {
        ConfigurableApplicationContext a = start(Payments.class, payments, "maxine.register.instance=a", "maxine.zone=eu-1a",
            "maxine.register.version=7", "maxine.register.metadata.team=billing");
        start(Payments.class, payments, "maxine.register.instance=b", "maxine.register.weight=3");
        ConfigurableApplicationContext orders = start(Orders.class, "orders-" + System.nanoTime());
        until("both instances", () -> ids(orders).equals(Set.of("a", "b")));

        // DiscoveryClient, also as the one that Spring Cloud composes of all, and ReactiveDiscoveryClient.
        ServiceInstance first = orders.getBean("compositeDiscoveryClient", DiscoveryClient.class).getInstances(payments).stream()
            .filter(one -> one.getInstanceId().equals("a")).findFirst().orElseThrow();
        assertEquals(Map.of("team", "billing", "zone", "eu-1a", "version", "7"), first.getMetadata());
        assertEquals(a.getEnvironment().getProperty("local.server.port", Integer.class), first.getPort());
        assertEquals("http://127.0.0.1:" + first.getPort(), first.getUri().toString());
        assertTrue(orders.getBean(DiscoveryClient.class).getServices().contains(payments));
        List<ServiceInstance> reactive =
            orders.getBean(ReactiveDiscoveryClient.class).getInstances(payments).collectList().block(Duration.ofSeconds(10));
        assertEquals(2, reactive.size());
        List<ServiceInstance> supplied = orders.getBean(LoadBalancerClientFactory.class)
            .getInstance(payments, ServiceInstanceListSupplier.class).get().blockFirst(Duration.ofSeconds(10));
        assertEquals(2, supplied.size());

        // The LoadBalancer, in turn by weight.
        RestClient client = orders.getBean(RestClient.Builder.class).build();
        Callable<String> call = () -> client.get().uri("http://" + payments + "/who").retrieve().body(String.class);
        List<String> answers = new ArrayList<>();
        for (int n = 0; n < 8; n++) {
            answers.add(call.call());
        }
        assertEquals(2, answers.stream().filter("a"::equals).count(), answers::toString);
        assertEquals(Collections.nCopies(8, new Tracer.Outcome(200, null, false)), OUTCOMES);
        RestTemplate template = orders.getBean(RestTemplate.class);
        assertEquals(1, template.getForObject("http://" + payments + "/who", String.class).length());
        assertThrows(IllegalStateException.class, () -> template.getForObject("http://no-such-service/who", String.class));

        // An instance that cannot be reached fails the request that notices it, and is then avoided.
        String closed;
        try (ServerSocket socket = new ServerSocket(0)) {
            closed = "http://127.0.0.1:" + socket.getLocalPort();
        }
        try (MaxineClient owner = new MaxineClient(System.getenv("MAXINE_SERVER").split(","))) {
            owner.register(payments, "closed", closed, Map.of("weight", 4L));
            until("the third instance", () -> ids(orders).size() == 3);
            int failed = 0;
            for (int n = 0; n < 16; n++) {
                try {
                    call.call();
                } catch (org.springframework.web.client.ResourceAccessException error) {
                    failed++;
                }
            }
            assertEquals(1, failed);
            assertEquals(1, OUTCOMES.stream().filter(one -> one.failed() && one.error() != null).count(), OUTCOMES::toString);
        }

        // The health of Actuator.
        RestClient own = RestClient.create("http://127.0.0.1:" + orders.getEnvironment().getProperty("local.server.port"));
        Map<?, ?> health = own.get().uri("/actuator/health").retrieve().body(Map.class);
        Map<?, ?> maxine = (Map<?, ?>) ((Map<?, ?>) health.get("components")).get("maxine");
        assertEquals("UP", maxine.get("status"));
        Map<?, ?> details = (Map<?, ?>) maxine.get("details");
        assertEquals("UP", details.get("registration"));
        assertTrue(details.containsKey("service." + payments), details::toString);

        // An application that refuses traffic is not registered until it accepts it again.
        AvailabilityChangeEvent.publish(a, ReadinessState.REFUSING_TRAFFIC);
        until("the other one alone", () -> ids(orders).equals(Set.of("b")));
        AvailabilityChangeEvent.publish(a, ReadinessState.ACCEPTING_TRAFFIC);
        until("both again", () -> ids(orders).equals(Set.of("a", "b")));
        // So does the status of ServiceRegistry.
        MaxineServiceRegistry registry = a.getBean(MaxineServiceRegistry.class);
        registry.setStatus(a.getBean(MaxineRegistration.class), "OUT_OF_SERVICE");
        until("the other one alone", () -> ids(orders).equals(Set.of("b")));
        registry.setStatus(a.getBean(MaxineRegistration.class), "UP");
        until("both again", () -> ids(orders).equals(Set.of("a", "b")));

        // While an application ends, no call fails: it deregisters before its server stops.
        Thread closing = new Thread(a::close);
        closing.start();
        while (closing.isAlive()) {
            call.call();
        }
        assertEquals(Set.of("b"), ids(orders));
        for (int n = 0; n < 4; n++) {
            assertEquals("b", call.call());
        }
        assertTrue(orders.getBean(LoadBalancerClient.class).choose(payments).getInstanceId().equals("b"));
    }

    @Test
    void anApplicationStartsWithoutANodeAndStaysUnregisteredIfAsked() throws Exception {
        String closed;
        try (ServerSocket socket = new ServerSocket(0)) {
            closed = "http://127.0.0.1:" + socket.getLocalPort();
        }
        ConfigurableApplicationContext alone = start(Payments.class, payments, "maxine.register.instance=alone", "maxine.servers=" + closed);
        assertEquals("OUT_OF_SERVICE", alone.getBean(MaxineServiceRegistry.class).<String>getStatus(alone.getBean(MaxineRegistration.class)));
        ConfigurableApplicationContext silent =
            start(Payments.class, payments, "maxine.register.instance=silent", "maxine.register.enabled=false");
        assertTrue(ids(silent).isEmpty());
        ConfigurableApplicationContext off = start(Payments.class, payments, "maxine.register.instance=off", "maxine.enabled=false");
        assertFalse(off.getBeanProvider(MaxineClient.class).iterator().hasNext());
    }

    @Test
    @EnabledIfEnvironmentVariable(named = "MAXINE_TEST_ISSUER", matches = ".+")
    void anApplicationUsesTokensOfAnOpenIdProvider(@TempDir Path folder) throws Exception {
        Path secret = folder.resolve("secret");
        Files.writeString(secret, "s3cret: with % signs +\n");
        ConfigurableApplicationContext application = start(Payments.class, payments, "maxine.register.instance=a",
            "maxine.oidc.issuer=" + System.getenv("MAXINE_TEST_ISSUER"), "maxine.oidc.client-id=orders: a+b",
            "maxine.oidc.client-secret-file=" + secret, "maxine.oidc.resource=https://maxine.test/", "maxine.oidc.scope=register");
        until("the registration", () -> ids(application).equals(Set.of("a")));
        // Without a token the nodes refuse this list.
        assertTrue(application.getBean(MaxineClient.class).services().contains(payments));
    }
}

package maxine.spring;

import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.loadbalancer.core.ReactorLoadBalancer;
import org.springframework.cloud.loadbalancer.core.ServiceInstanceListSupplier;
import org.springframework.cloud.loadbalancer.support.LoadBalancerClientFactory;
import org.springframework.context.annotation.Bean;
import org.springframework.core.env.Environment;

/** What each service's own context of Spring Cloud LoadBalancer has. It is no {@code @Configuration}, so that no scan finds it. */
public class MaxineLoadBalancerConfiguration {
    @Bean
    @ConditionalOnMissingBean
    ReactorLoadBalancer<ServiceInstance> maxineLoadBalancer(Environment environment, MaxineResolvers resolvers) {
        return new MaxineLoadBalancer(LoadBalancerClientFactory.getName(environment), resolvers);
    }

    @Bean
    @ConditionalOnMissingBean
    ServiceInstanceListSupplier maxineServiceInstanceListSupplier(Environment environment, MaxineResolvers resolvers) {
        return new MaxineServiceInstanceListSupplier(LoadBalancerClientFactory.getName(environment), resolvers);
    }

    @Bean
    MaxineLoadBalancer.Lifecycle maxineLoadBalancerLifecycle() {
        return new MaxineLoadBalancer.Lifecycle();
    }
}

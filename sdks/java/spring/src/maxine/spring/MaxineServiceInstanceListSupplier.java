package maxine.spring;

import java.util.List;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.loadbalancer.core.ServiceInstanceListSupplier;
import reactor.core.publisher.Flux;
import reactor.core.scheduler.Schedulers;

/** The instances that get traffic, for load balancers other than {@link MaxineLoadBalancer}. */
public class MaxineServiceInstanceListSupplier implements ServiceInstanceListSupplier {
    private final String service;
    private final MaxineResolvers resolvers;

    MaxineServiceInstanceListSupplier(String service, MaxineResolvers resolvers) {
        this.service = service;
        this.resolvers = resolvers;
    }

    @Override
    public String getServiceId() {
        return service;
    }

    @Override
    public Flux<List<ServiceInstance>> get() {
        Flux<List<ServiceInstance>> present =
            Flux.defer(() -> Flux.just(MaxineServiceInstance.all(service, resolvers.get(service).instances())));
        return resolvers.knows(service) ? present : present.subscribeOn(Schedulers.boundedElastic());
    }
}

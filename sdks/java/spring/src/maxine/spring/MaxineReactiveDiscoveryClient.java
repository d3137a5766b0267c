package maxine.spring;

import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.discovery.ReactiveDiscoveryClient;
import reactor.core.publisher.Flux;
import reactor.core.scheduler.Schedulers;

/** The instances that get traffic, for reactive programs. What waits for a node does so in threads that may wait. */
public class MaxineReactiveDiscoveryClient implements ReactiveDiscoveryClient {
    private final MaxineDiscoveryClient discovery;

    MaxineReactiveDiscoveryClient(MaxineDiscoveryClient discovery) {
        this.discovery = discovery;
    }

    @Override
    public String description() {
        return "Maxine";
    }

    @Override
    public Flux<ServiceInstance> getInstances(String service) {
        return Flux.defer(() -> Flux.fromIterable(discovery.getInstances(service))).subscribeOn(Schedulers.boundedElastic());
    }

    @Override
    public Flux<String> getServices() {
        return Flux.defer(() -> Flux.fromIterable(discovery.getServices())).subscribeOn(Schedulers.boundedElastic());
    }
}

package maxine.spring;

import java.util.List;
import maxine.client.Resolver;
import maxine.client.Tracer;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.loadbalancer.CompletionContext;
import org.springframework.cloud.client.loadbalancer.DefaultResponse;
import org.springframework.cloud.client.loadbalancer.EmptyResponse;
import org.springframework.cloud.client.loadbalancer.LoadBalancerLifecycle;
import org.springframework.cloud.client.loadbalancer.Request;
import org.springframework.cloud.client.loadbalancer.RequestDataContext;
import org.springframework.cloud.client.loadbalancer.Response;
import org.springframework.cloud.client.loadbalancer.ResponseData;
import org.springframework.cloud.loadbalancer.core.ReactorServiceInstanceLoadBalancer;
import reactor.core.publisher.Mono;
import reactor.core.scheduler.Schedulers;

/** Chooses an instance as the nodes of Maxine do: by strategy, weight, version and zone. */
public class MaxineLoadBalancer implements ReactorServiceInstanceLoadBalancer {
    private final String service;
    private final MaxineResolvers resolvers;

    MaxineLoadBalancer(String service, MaxineResolvers resolvers) {
        this.service = service;
        this.resolvers = resolvers;
    }

    @Override
    @SuppressWarnings("rawtypes") // as in the interface
    public Mono<Response<ServiceInstance>> choose(Request request) {
        Mono<Response<ServiceInstance>> chosen = Mono.fromSupplier(() -> chosenFor(request));
        // Only the first request to a service waits for a node.
        return resolvers.knows(service) ? chosen : chosen.subscribeOn(Schedulers.boundedElastic());
    }

    private Response<ServiceInstance> chosenFor(Request<?> request) {
        Resolver.Chosen chosen = resolvers.get(service).choose(described(request));
        return chosen == null ? new EmptyResponse() : new DefaultResponse(MaxineServiceInstance.of(service, chosen));
    }

    /** The parts of the request that can identify the caller. */
    private static maxine.client.Request described(Request<?> request) {
        if (!(request.getContext() instanceof RequestDataContext context) || context.getClientRequest() == null) {
            return maxine.client.Request.NONE;
        }
        String query = context.getClientRequest().getUrl().getRawQuery();
        return new maxine.client.Request(null, null, context.getClientRequest().getHeaders().toSingleValueMap(),
            query == null ? List.of() : List.of(query));
    }

    /** Counts the requests in flight, and notes instances that could not be reached. */
    static final class Lifecycle implements LoadBalancerLifecycle<Object, Object, ServiceInstance> {
        @Override
        public void onStart(Request<Object> request) {
            // No instance has been chosen yet.
        }

        @Override
        public void onStartRequest(Request<Object> request, Response<ServiceInstance> response) {
            if (response.getServer() instanceof MaxineServiceInstance instance) {
                instance.begin();
            }
        }

        @Override
        public void onComplete(CompletionContext<Object, ServiceInstance, Object> completion) {
            Response<ServiceInstance> response = completion.getLoadBalancerResponse();
            if (response != null && response.getServer() instanceof MaxineServiceInstance instance) {
                boolean failed = completion.status() == CompletionContext.Status.FAILED;
                int status = completion.getClientResponse() instanceof ResponseData data ? data.getHttpStatus().value() : 0;
                instance.end(new Tracer.Outcome(status, completion.getThrowable(), failed));
            }
        }
    }
}

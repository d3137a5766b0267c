package maxine.spring;

import java.io.IOException;
import java.util.List;
import maxine.client.MaxineClient;
import maxine.client.MaxineClientException;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.discovery.DiscoveryClient;

/** The instances that get traffic. Once a service was asked for, no request to a node is needed. */
public class MaxineDiscoveryClient implements DiscoveryClient {
    private final MaxineClient client;
    private final MaxineResolvers resolvers;

    MaxineDiscoveryClient(MaxineClient client, MaxineResolvers resolvers) {
        this.client = client;
        this.resolvers = resolvers;
    }

    @Override
    public String description() {
        return "Maxine";
    }

    @Override
    public List<ServiceInstance> getInstances(String service) {
        return MaxineServiceInstance.all(service, resolvers.get(service).instances());
    }

    /** All services of the namespace; without the role viewer, those that this application has asked for. */
    @Override
    public List<String> getServices() {
        try {
            return client.services();
        } catch (MaxineClientException error) {
            if (error.status() == 401 || error.status() == 403) {
                return List.copyOf(resolvers.all().keySet());
            }
            throw new IllegalStateException(error);
        } catch (IOException error) {
            throw new IllegalStateException(error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(error);
        }
    }
}

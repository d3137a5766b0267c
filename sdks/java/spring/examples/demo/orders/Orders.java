package demo.orders;

import java.util.Map;
import java.util.concurrent.ConcurrentSkipListMap;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.client.loadbalancer.LoadBalanced;
import org.springframework.context.annotation.Bean;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;

/** A service that calls payments about 50 times a second, and counts the answers of each instance. */
@SpringBootApplication
@RestController
public class Orders {
    private final Map<String, Integer> answers = new ConcurrentSkipListMap<>();

    @Bean
    @LoadBalanced
    RestClient.Builder restClientBuilder() {
        return RestClient.builder();
    }

    /** How many answers came from each instance. {@code failed} are the calls without an answer. */
    @GetMapping("/answers")
    Map<String, Integer> answers() {
        return answers;
    }

    private void callForEver(RestClient payments) {
        while (true) {
            try {
                Thread.sleep(20);
                answers.merge(payments.get().uri("http://payments/who").retrieve().body(String.class), 1, Integer::sum);
            } catch (InterruptedException error) {
                return;
            } catch (RuntimeException error) {
                answers.merge("failed", 1, Integer::sum);
                System.err.println(error.getMessage());
            }
        }
    }

    public static void main(String[] arguments) {
        var context = SpringApplication.run(Orders.class, arguments);
        RestClient payments = context.getBean(RestClient.Builder.class).build();
        Thread calling = new Thread(() -> context.getBean(Orders.class).callForEver(payments));
        calling.setDaemon(true);
        calling.start();
    }
}

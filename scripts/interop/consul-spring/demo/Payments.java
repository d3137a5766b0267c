package demo;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.core.env.Environment;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** The service that Orders calls; its greeting is configured in keys. */
@SpringBootApplication
@RestController
public class Payments {
    private final Environment environment;

    Payments(Environment environment) {
        this.environment = environment;
    }

    @GetMapping("/who")
    String who() {
        return environment.getProperty("spring.cloud.consul.discovery.instance-id", "unnamed");
    }

    @GetMapping("/greeting")
    String greeting() {
        return environment.getProperty("demo.greeting", "none");
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Payments.class, arguments);
    }
}

package demo.payments;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.core.env.Environment;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** A service that says which instance has answered. */
@SpringBootApplication
@RestController
public class Payments {
    private final Environment environment;

    Payments(Environment environment) {
        this.environment = environment;
    }

    @GetMapping("/who")
    String who() {
        return environment.getProperty("maxine.register.instance", "unnamed");
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Payments.class, arguments);
    }
}

/**
 * A starter for Spring Boot: registers the application in Maxine, and finds other services through Spring Cloud. Its beans are
 * made by {@link maxine.spring.MaxineAutoConfiguration}.
 */
package maxine.spring;

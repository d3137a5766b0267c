#!/usr/bin/env python3
"""Applications of Spring Boot with Spring Cloud Consul, one process each, while nodes end.

    scripts/interop.sh consul-spring

It starts a cluster of three nodes, two instances of `payments`, and `orders`, which calls `payments` through Spring Cloud
LoadBalancer. Each asks a node of its own. Instance `a` has the HTTP check that Spring registers by default, and `b` sends
heartbeats. Their configuration is in keys. All of them listen on loopback and end with the script.

    BOOT, CLOUD   the versions (default: those in scripts/interop/consul-spring/pom.xml)
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import interop_faults
import interop_spring
import sdks

HERE = sdks.ROOT / "scripts/interop/consul-spring"
PATIENCE_S = 120


def classpath(scratch):
    versions = [f"-D{name}.version={os.environ[name.upper()]}" for name in ("boot", "cloud") if name.upper() in os.environ]
    subprocess.run(["mvn", "-q", "-B", "-Dstyle.color=never", "-f", HERE, "dependency:build-classpath", f"-Dmdep.outputFile={scratch}/classpath", *versions],
                   check=True)
    whole = f"{scratch}:" + pathlib.Path(scratch, "classpath").read_text().strip()
    # The caller is the one of the starter, because it names nothing of either.
    sources = [HERE / "demo/Payments.java", interop_spring.STARTER / "examples/demo/orders/Orders.java"]
    subprocess.run(["javac", "-parameters", "-d", scratch, "-cp", whole, *sources], check=True)
    return whole


def text(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


class Steps:
    """Prints for each step how long it took, how many calls orders made, and how many of them failed."""

    def __init__(self, orders):
        self.orders = orders
        self.mark()

    def answers(self):
        return interop_spring.get(f"{self.orders}/answers")

    def mark(self):
        self.began, self.before = time.monotonic(), self.answers()

    def gained(self, name):
        return self.answers().get(name, 0) - self.before.get(name, 0)

    def until(self, condition, what):
        sdks.wait_for(condition, what, PATIENCE_S)

    def called(self, *names):
        """Waits until each of these has answered more than 20 calls since the beginning of the step."""
        self.until(lambda: all(self.gained(name) > 20 for name in names), f"answers of {names}: {self.answers()}")

    def done(self, what, may_fail=False):
        failed, count = self.gained("failed"), sum(self.answers().values()) - sum(self.before.values())
        print(f"  {what}: {time.monotonic() - self.began:.1f} s, {count} calls, {failed} failed", flush=True)
        if failed and not may_fail:
            raise SystemExit(f"{failed} calls have failed, expected none")
        self.mark()


def passing(api):
    return {entry["Service"]["ID"] for entry in api.get("health/service/payments?passing&consistent")}


def run(cluster, start, version):
    api = cluster.api
    api.put("kv/config/application/demo.greeting", b"hello from all")
    # The leader is the node of `b`.
    while cluster.leader() != 1:
        leader = cluster.leader()
        cluster.signal(leader, signal.SIGTERM)
        cluster.restart(leader)
        cluster.wait_for_leader()
    a = start("demo.Payments", "payments", "a", 0)
    start("demo.Payments", "payments", "b", 1, heartbeats=True)
    orders = start("demo.orders.Orders", "orders", "orders-1", 2)
    url, greeting = orders.url(), a.url() + "/greeting"
    steps = Steps(url)

    # Orders may have started before them.
    steps.called("a", "b")
    steps.mark()
    steps.called("a", "b")
    steps.done("orders calls both instances")
    if text(greeting) != "hello from all":
        raise SystemExit(f"the configuration at the start is {text(greeting)!r}")
    api.put("kv/config/payments/demo.greeting", b"hello from payments")
    steps.until(lambda: text(greeting) == "hello from payments", "the configuration")
    steps.done("the configuration changes")

    cluster.signal(1, signal.SIGKILL)
    c = start("demo.Payments", "payments", "c", 2)
    c.url()
    steps.called("a", "b", "c")
    api.put("kv/config/payments/demo.greeting", b"hello again")
    steps.until(lambda: text(greeting) == "hello again", "the configuration")
    cluster.restart(1)
    steps.until(lambda: {"a", "c"} <= passing(api), "passing checks")
    steps.done("the leader is killed, which b asks; an instance starts and the configuration changes")
    steps.until(lambda: passing(api) == {"a", "b", "c"}, "passing checks")
    steps.called("a", "b", "c")
    steps.done("the killed node is back, and all instances are called")

    for at in range(3):
        cluster.signal(at, signal.SIGTERM)
        cluster.restart(at)
    steps.until(lambda: passing(api) == {"a", "b", "c"}, "passing checks")
    steps.called("a", "b", "c")
    steps.done("each node is stopped and started")

    # Version 5 of Spring Cloud Consul ignores that a heartbeat is refused (spring-cloud-consul issue 954).
    if not version.startswith("5."):
        api.put("agent/service/deregister/b")
        steps.until(lambda: "b" in passing(api), "a new registration")
        steps.done("somebody deregisters b, and it registers again")

    # Spring calls an instance that has left until the cache of LoadBalancer is renewed, and it does not try another one.
    c.end(signal.SIGTERM)
    if "c" in passing(api):
        raise SystemExit("c is still registered after its end")
    time.sleep(3)
    steps.done("an instance is stopped (SIGTERM), and the cache is renewed", may_fail=True)
    steps.called("a", "b")
    if steps.gained("c"):
        raise SystemExit("c has answered after its end")
    steps.done("the others are called")

    a.end(signal.SIGKILL)
    steps.until(lambda: passing(api) == {"b"}, "a critical check")
    time.sleep(3)
    steps.done("an instance is killed (SIGKILL), its check is critical, and the cache is renewed", may_fail=True)
    steps.called("b")
    steps.done("the other one is called")

    health = interop_spring.get(f"{url}/actuator/health")
    if health["status"] != "UP" or health["components"]["consul"]["status"] != "UP":
        raise SystemExit(f"the health is {health}")
    orders.end(signal.SIGTERM)
    if api.get("health/service/orders"):
        raise SystemExit("orders is still registered after its end")


def main():
    with tempfile.TemporaryDirectory() as scratch:
        whole = classpath(scratch)
        boot, version = (re.search(rf"/{name}-([0-9.]+[0-9])\.jar", whole)[1] for name in ("spring-boot", "spring-cloud-consul-core"))
        print(f"Spring Boot {boot}, Spring Cloud Consul {version}", flush=True)
        applications = []
        with interop_faults.Cluster() as cluster:
            def start(main_class, service, name, node, heartbeats=False):
                port = cluster.urls[node].rpartition(":")[2]
                files = [interop_faults.guide("consul-spring", "consul.example", {
                    "payments": service, "consul.example": "127.0.0.1", "8500": port, "TOKEN": cluster.api.token,
                })]
                if heartbeats:
                    files.append(interop_faults.guide("consul-spring", "heartbeat"))
                for at, text_of in enumerate(files):
                    pathlib.Path(scratch, f"{name}-{at}.yml").write_text(text_of, encoding="utf-8")
                locations = ",".join(f"file:{scratch}/{name}-{at}.yml" for at in range(len(files)))
                own = [f"--spring.config.location={locations}", f"--spring.cloud.consul.discovery.instance-id={name}",
                       "--spring.cloud.consul.discovery.prefer-ip-address=true",
                       "--spring.cloud.consul.discovery.ip-address=127.0.0.1",
                       "--spring.cloud.consul.discovery.health-check-critical-timeout=10m",
                       "--spring.cloud.consul.discovery.query-passing=true", "--spring.cloud.loadbalancer.cache.ttl=2s"]
                applications.append(interop_spring.Application(main_class, whole, scratch, name, *own))
                return applications[-1]

            try:
                run(cluster, start, version)
            except BaseException:
                for one in applications:
                    print(pathlib.Path(one.log).read_text(encoding="utf-8")[-3000:], file=sys.stderr)
                raise
            finally:
                for one in applications:
                    one.process.kill()
                    one.process.wait()
    print("as expected")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Real applications of Spring Boot with the starter, one process each, while nodes and applications end.

    scripts/interop.sh spring

It builds the client and the starter, and starts a cluster of three nodes, two instances of `payments`, and `orders`, which calls
`payments` through Spring Cloud LoadBalancer. All of them listen on loopback and end with the script.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sdks

STARTER = sdks.SDKS / "java/spring"


def classpath(scratch):
    """Builds the starter and the two applications."""
    subprocess.run(["mvn", "-q", "-B", "-DskipTests", "install"], cwd=STARTER.parent, check=True)
    subprocess.run(["mvn", "-q", "-B", "-DskipTests", "package", "dependency:build-classpath", f"-Dmdep.outputFile={scratch}/classpath"],
                   cwd=STARTER, check=True)
    whole = f"{scratch}:{STARTER}/target/classes:" + pathlib.Path(scratch, "classpath").read_text().strip()
    sources = map(str, STARTER.glob("examples/**/*.java"))
    subprocess.run(["javac", "-parameters", "-d", scratch, "-cp", whole, *sources], check=True)
    return whole


class Application:
    """One application in a process of its own."""

    def __init__(self, main, whole, scratch, name, *settings):
        self.log = f"{scratch}/{name}.log"
        common = ["--server.port=0", "--server.address=127.0.0.1", "--management.endpoint.health.show-details=always"]
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(["java", "-XX:TieredStopAtLevel=1", "-cp", whole, main, *common, *settings],
                                            stdout=log, stderr=subprocess.STDOUT)

    def url(self):
        """Where it listens, when it has started."""
        def port():
            return re.search(r"Tomcat started on port (\d+)", pathlib.Path(self.log).read_text(encoding="utf-8"))

        sdks.wait_for(port, self.log, 400)
        return f"http://127.0.0.1:{port()[1]}"

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(60)


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.loads(answer.read())


def main():
    with tempfile.TemporaryDirectory() as scratch:
        whole = classpath(scratch)
        applications = []
        with sdks.Cluster() as cluster:
            def start(main_class, name, *settings):
                own = ["--maxine.register.host=127.0.0.1", f"--maxine.servers={','.join(cluster.urls)}",
                       f"--maxine.register.instance={name}", "--maxine.register.ttl=5s"]
                applications.append(Application(main_class, whole, scratch, name, *own, *settings))
                return applications[-1]

            try:
                run(cluster, start)
            except BaseException:
                for one in applications:
                    print(pathlib.Path(one.log).read_text(encoding="utf-8")[-3000:], file=sys.stderr)
                raise
            finally:
                for one in applications:
                    one.process.kill()
                    one.process.wait()


def run(cluster, start):
    payments = {name: start("demo.payments.Payments", name, "--spring.application.name=payments") for name in ("a", "b")}
    orders = start("demo.orders.Orders", "orders-1", "--spring.application.name=orders")
    url = orders.url()
    before = {}

    def gained(name):
        return get(f"{url}/answers").get(name, 0) - before.get(name, 0)

    def step():
        before.clear()
        before.update(get(f"{url}/answers"))

    def called(*names):
        step()
        sdks.wait_for(lambda: all(gained(name) > 20 for name in names), f"answers of {names}", 300)

    def report(what, failed_max):
        failed = gained("failed")
        answers = sum(get(f"{url}/answers").values()) - sum(before.values())
        print(f"{what}: {answers} calls, {failed} failed", flush=True)
        if failed > failed_max:
            raise SystemExit(f"{failed} calls have failed, expected at most {failed_max}")

    called("a", "b")
    versions = "spring-boot-3", "spring-cloud-commons-"
    print(", ".join(sorted(set(re.search(f"{name}[0-9.]*[0-9]", payments["a"].process.args[3])[0] for name in versions))), flush=True)
    step()

    leader = cluster.leader()
    os.kill(cluster.pid(leader), signal.SIGKILL)
    payments["c"] = start("demo.payments.Payments", "c", "--spring.application.name=payments")
    sdks.wait_for(lambda: gained("c") > 20 and gained("a") > 20 and gained("b") > 20, "answers of c", 300)
    report("the leading node is killed, and an instance starts", 0)
    cluster.restart(leader)

    step()
    status = payments["b"].end(signal.SIGTERM)
    report(f"an instance is stopped (SIGTERM, exit status {status})", 0)
    called("a", "c")

    step()
    payments["a"].end(signal.SIGKILL)
    sdks.wait_for(lambda: gained("c") > 500, "answers of c", 300)
    # A call that was on its way, and those that found the closed port: after each, the instance is avoided for longer.
    report("an instance is killed (SIGKILL)", 4)
    sdks.wait_for(lambda: [one["id"] for one in instances(cluster, "payments")] == ["c"], "the end of the lease")

    health = get(f"{url}/actuator/health")
    if health["status"] != "UP" or health["components"]["maxine"]["status"] != "UP":
        raise SystemExit(f"the health is {health}")
    orders.end(signal.SIGTERM)
    if instances(cluster, "orders"):
        raise SystemExit("orders is still registered after its end")
    print("1 passed, 0 failed")


def instances(cluster, service):
    try:
        return cluster.ask("GET", f"/api/v1/services/default/{service}/instances")["items"]
    except OSError:
        return []


if __name__ == "__main__":
    main()

"""A client of Consul that keeps itself registered and watches a service, while three nodes fail in turn.

Arguments: the program with the client; the address of its node and a token follow them. It registers itself as `worker`, and
prints the passing instances of `web` as a JSON list after each change.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import interop_faults

# The Go client waits 5 s after the first failed request, 20 s after the second one, and 45 s after the third one.
PATIENCE_S = 120


class Client:
    """The running program, and the lists that it has printed."""

    def __init__(self, command):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.seen = []
        self.reader = threading.Thread(target=lambda: self.seen.extend(map(json.loads, self.process.stdout)), daemon=True)
        self.reader.start()

    def __enter__(self):
        return self

    def until(self, what, expected):
        began = time.monotonic()
        while self.seen[-1:] != [expected]:
            if self.process.poll() is not None or time.monotonic() - began > PATIENCE_S:
                raise SystemExit(f"{what}: {self.seen[-1:]}, expected {expected}; the client's state: {self.process.poll()}")
            time.sleep(0.02)
        print(f"  {what}: after {time.monotonic() - began:.2f} s", flush=True)

    def __exit__(self, kind, *_):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        if kind:
            self.errors.seek(0)
            print(self.errors.read()[-2000:], file=sys.stderr)


class Registration:
    """Asks all nodes again and again whether the client is registered and passes."""

    def __init__(self, urls, token):
        self.urls, self.token, self.looks, self.missing = urls, token, 0, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ended.wait(0.2):
            for url in self.urls:
                request = urllib.request.Request(f"{url}/v1/health/service/worker?passing", headers={"x-consul-token": self.token})
                try:
                    with urllib.request.urlopen(request, timeout=2) as answer:
                        self.looks += 1
                        self.missing += json.loads(answer.read()) == []
                except OSError:
                    continue

    def end(self):
        self.ended.set()
        self.thread.join()
        print(f"  registered and passing at {self.looks - self.missing} of {self.looks} looks")
        if self.missing or not self.looks:
            raise SystemExit("the client was not registered for a time")


def register(api, at):
    api.put("agent/service/register", {
        "ID": f"web-{at}", "Name": "web", "Address": f"10.0.0.{at}", "Port": 8080, "Check": {"TTL": "10m", "Status": "passing"},
    })


def main():
    with interop_faults.Cluster() as cluster:
        api, own, at = cluster.api, 0, 1
        # Changes go through the other nodes while the client's own node does not answer.
        api.consul = api.native = cluster.urls[1:] + cluster.urls[:1]
        register(api, at)
        with Client([*sys.argv[1:], cluster.urls[own].removeprefix("http://"), api.token]) as client:
            client.until("watches, three nodes", ["web-1"])
            found = len(client.seen)
            registration = Registration(cluster.urls, api.token)

            def follows(what):
                nonlocal at
                at += 1
                register(api, at)
                api.put(f"agent/service/deregister/web-{at - 1}")
                client.until(what, [f"web-{at}"])

            interop_faults.faults(cluster, own, follows)
            registration.end()
            if not all(client.seen[found:]):
                raise SystemExit(f"an empty list: {client.seen}")


main()

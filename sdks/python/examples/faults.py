"""The part of a client in `scripts/sdks.py faults`: registers itself, calls the targets, and prints what it sees."""

import json
import os
import signal
import threading
import time
import urllib.request

from maxine_client import Client, ClientCredentials

errors = []
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
credentials = None
if os.environ.get("MAXINE_TEST_ISSUER"):  # The tokens of this client are valid for 10 s.
    credentials = ClientCredentials("worker", issuer=os.environ["MAXINE_TEST_ISSUER"],
                                    client_secret_env="MAXINE_TEST_SECRET", resource="https://maxine.test/")
client = Client(os.environ["MAXINE_SERVER"], credentials=credentials, on_error=errors.append)
kept = client.register("workers", "python", address="http://127.0.0.1:1", ttl_ms=3_000)
targets = client.resolver("targets")


def tell(instances):
    print("change", int(time.time() * 1000), ",".join(one["id"] for one in instances), flush=True)


targets.on_change(tell)
tell(targets.instances)
calls = failed = age_max_s = 0
while not ended.wait(0.01):
    calls += 1
    age_max_s = max(age_max_s, targets.age_s)
    try:
        with targets.choose() as chosen:
            with urllib.request.urlopen(chosen.address, timeout=5) as answer:
                answer.read()
    except (OSError, AttributeError):
        failed += 1
client.stop()
began = time.perf_counter_ns()
for _ in range(100_000):
    with targets.choose():
        pass
choose_ns = (time.perf_counter_ns() - began) / 100_000
print(json.dumps({"calls": calls, "failed": failed, "ageMaxMs": round(age_max_s * 1000), "chooseNs": round(choose_ns),
                  "renewals": kept.renewals, "errors": len(errors)}), flush=True)

"""Runs ../spec/cases.json with urllib, then the client against the same cluster."""

import json
import os
import pathlib
import re
import secrets
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request

from maxine import Maxine, MaxineError

EVENTUALLY_S = 30
# The number of wrong answers of the faulty node that ../spec/README.md describes.
FAULTY_ANSWERS = 6
NODES = os.environ["MAXINE_SERVER"].split(",")
HOST, PORT = os.environ["MAXINE_UPSTREAM"].split(":")
VARIABLES = {"unique": "python-" + secrets.token_hex(4), "upstreamHost": HOST, "upstreamPort": PORT}
for role in ("admin", "operator", "viewer"):
    VARIABLES[role + "User"] = os.environ[f"MAXINE_{role.upper()}_USERNAME"]
    VARIABLES[role + "Password"] = os.environ[f"MAXINE_{role.upper()}_PASSWORD"]


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


OPENER = urllib.request.build_opener(NoRedirects)
TYPES = {
    "$string": lambda v: isinstance(v, str),
    "$number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "$integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "$boolean": lambda v: isinstance(v, bool),
    "$array": lambda v: isinstance(v, list),
    "$object": lambda v: isinstance(v, dict),
}


def filled(value):
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda found: VARIABLES[found[1]], value)
    if isinstance(value, list):
        return [filled(inner) for inner in value]
    if isinstance(value, dict):
        return {filled(name): filled(inner) for name, inner in value.items()}
    return value


def check(expected, actual, at):
    if isinstance(expected, str) and expected in TYPES:
        assert TYPES[expected](actual), f"{at} is {actual!r}, not a {expected}"
    elif isinstance(expected, str) and expected.startswith("$re:"):
        assert re.fullmatch(expected[4:], str(actual)), f"{at} is {actual!r}"
    elif isinstance(expected, dict):
        fields = {name: value for name, value in expected.items() if name != "..."}
        for name, value in fields.items():
            assert name in actual, f"{at} has no {name}"
            check(value, actual[name], f"{at}.{name}")
        assert "..." in expected or set(actual) == set(fields), f"{at} has {sorted(actual)}"
    else:
        assert actual == expected, f"{at} is {actual!r}, not {expected!r}"


def send(request):
    headers = dict(request.get("headers", {}))
    body = None
    if "json" in request:
        headers.setdefault("content-type", "application/json")
        body = json.dumps(request["json"], separators=(",", ":")).encode()
    elif "text" in request:
        body = request["text"].encode()
    url = NODES[request.get("node", 0) % len(NODES)] + request["path"]
    prepared = urllib.request.Request(url, body, headers, method=request["method"])
    try:
        answer = OPENER.open(prepared, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        joined = {name.lower(): ", ".join(answer.headers.get_all(name)) for name in answer.headers}
        return answer.status, joined, answer.read().decode()


def compare(expect, status, headers, text):
    assert status == expect["status"], f"status {status}, not {expect['status']}, with {text}"
    for name, value in expect.get("headers", {}).items():
        check(value, headers.get(name), name)
    if "text" in expect:
        check(expect["text"], text, "body")
    if "json" in expect:
        check(expect["json"], json.loads(text), "body")


def step(one):
    request, expect, tally = filled(one["request"]), filled(one["expect"]), one.get("tally")
    deadline, counts = time.monotonic() + EVENTUALLY_S, {}
    while True:
        status, headers, text = send(request)
        try:
            compare(expect, status, headers, text)
        except AssertionError:
            if not one.get("eventually") or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        for name, source in one.get("save", {}).items():
            of_header = source.startswith("header:")
            VARIABLES[name] = headers[source[7:]] if of_header else json.loads(text)[source]
        if not tally:
            return
        value = headers[tally["header"]]
        counts[value] = counts.get(value, 0) + 1
        if sum(counts.values()) == tally["times"]:
            assert counts == tally["counts"], counts
            return


def eventually(condition):
    deadline = time.monotonic() + EVENTUALLY_S
    while not condition():
        assert time.monotonic() < deadline, "a condition does not come true"
        time.sleep(0.05)


def status_of(call):
    try:
        call()
    except MaxineError as error:
        return error.status
    return None


def client():
    maxine = Maxine("http://127.0.0.1:1", *NODES)
    service = VARIABLES["unique"] + "-client"
    assert maxine.sign_in(VARIABLES["viewerUser"], VARIABLES["viewerPassword"]) == "viewer"
    assert status_of(maxine.change_config) == 403
    assert status_of(lambda: maxine.discover(service)) == 503
    registration = {"hostName": HOST, "port": int(PORT), "serviceName": service, "timeOut": 1}
    kept = maxine.keep_registered(nodeName="a", **registration)
    # Five heartbeats take longer than a registration lives without heartbeats.
    eventually(lambda: kept.beats >= 5)
    assert maxine.discover(service, "x?y=1") == f"http://{HOST}:{PORT}/x?y=1"
    with maxine.call(service, "/x", "POST", b"hello", {"content-type": "text/plain"}) as answer:
        assert json.load(answer)["body"] == "hello"
    assert service in maxine.servers()

    with maxine.send(f"/api/v1/changes?service={service}&wait_ms=0") as answer:
        index = json.load(answer)["index"]
    stop = threading.Event()
    changes = maxine.watch(service, index=index, stop=stop)
    maxine.register(nodeName="b", **registration)
    change = next(changes)
    assert (change["type"], change["instance"]) == ("instance_registered", "b"), change
    kept.stop()
    for change in changes:
        if (change["type"], change["instance"]) == ("instance_removed", "a"):
            stop.set()
            break
    eventually(lambda: status_of(lambda: maxine.discover(service)) == 503)


def heartbeats():
    errors = []
    maxine = Maxine("http://" + os.environ["MAXINE_FAULTY"])
    registration = {"hostName": "h", "nodeName": "a", "serviceName": VARIABLES["unique"]}
    kept = maxine.keep_registered(errors.append, **registration)
    eventually(lambda: len(errors) >= FAULTY_ANSWERS and kept.beats >= 2)
    kept.stop()
    assert len(errors) == FAULTY_ANSWERS, errors


def main():
    cases = json.loads((pathlib.Path(__file__).parent.parent / "spec" / "cases.json").read_text())["cases"]
    failed = 0
    own = [{"name": "the client", "run": client}, {"name": "heartbeats to a faulty node", "run": heartbeats}]
    for case in [*cases, *own]:
        at = 0
        try:
            case.get("run", lambda: None)()
            for at, one in enumerate(case.get("steps", []), 1):
                step(one)
            print("ok", case["name"])
        except Exception:  # any exception means that the case failed
            failed += 1
            print(f"FAILED {case['name']}, step {at}: {traceback.format_exc()}")
    print(f"{len(cases) + len(own) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

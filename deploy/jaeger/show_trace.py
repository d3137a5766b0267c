#!/usr/bin/env python3
"""Prints one trace of Jaeger as a tree. For trying out: Jaeger's user interface shows more.

    show_trace.py URL TRACE_ID   URL is that of Jaeger's API, such as http://127.0.0.1:16686

A trace that is not there yet is waited for, up to 20 seconds: a node sends its spans about once a second.
"""
import json
import sys
import time
import urllib.error
import urllib.request

PATIENCE_S = 20
SHOWN = (
    "http.response.status_code",
    "error.type",
    "otel.status_description",
    "server.address",
    "server.port",
    "maxine.instance",
    "maxine.exported_because",
)


def spans_of(url, trace):
    """The spans of a trace, each with its attributes, the id of its parent, and the service and node that sent it."""
    try:
        with urllib.request.urlopen(f"{url}/api/traces/{trace}", timeout=10) as answer:
            (found,) = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return []
        raise
    spans = []
    for span in found["spans"]:
        process = found["processes"][span["processID"]]
        parents = [each["spanID"] for each in span["references"] if each["refType"] == "CHILD_OF"]
        spans.append({
            "id": span["spanID"],
            "parent": parents[0] if parents else None,
            "name": span["operationName"],
            "start_us": span["startTime"],
            "duration_us": span["duration"],
            "attributes": {tag["key"]: tag["value"] for tag in span["tags"]},
            "service": process["serviceName"],
            "resource": {tag["key"]: tag["value"] for tag in process["tags"]},
        })
    return sorted(spans, key=lambda span: (span["start_us"], -span["duration_us"]))


def lines_of(spans):
    """The lines of the tree. A span whose parent is not there is a root."""
    known = {span["id"] for span in spans}

    def below(parent, depth):
        for span in spans:
            if span["parent"] == parent or parent is None and span["parent"] not in known:
                shown = [f"{key}={span['attributes'][key]}" for key in SHOWN if key in span["attributes"]]
                yield "  ".join(["  " * depth + span["name"], f"{span['duration_us'] / 1000:.1f} ms", *shown])
                yield from below(span["id"], depth + 1)

    return list(below(None, 0))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    url, trace = sys.argv[1].rstrip("/"), sys.argv[2]
    end = time.monotonic() + PATIENCE_S
    while True:
        spans = spans_of(url, trace)
        if spans:
            print(*lines_of(spans), sep="\n")
            return
        if time.monotonic() > end:
            sys.exit(f"Jaeger at {url} does not have the trace {trace}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()

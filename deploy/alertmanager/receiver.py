#!/usr/bin/env python3
"""Receives the notifications of Alertmanager and prints one line for each. For trying out, not for production.

    receiver.py PORT [FILE]   listens on 127.0.0.1:PORT; FILE gets each notification as a line of JSON
"""
import http.server
import json
import sys


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        alerts = body["alerts"]
        first = alerts[0]
        name, severity = first["labels"]["alertname"], first["labels"].get("severity", "")
        notes = first["annotations"]
        print(f"{body['status']}: {name} ({severity}), {len(alerts)} alerts: {notes.get('summary', '')}")
        print(f"  runbook: {notes.get('runbook_url', '')}", flush=True)
        if len(sys.argv) > 2:
            with open(sys.argv[2], "a") as file:
                file.write(json.dumps(body) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()

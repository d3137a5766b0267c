"""Free ports on loopback, for the servers that scripts start."""

import contextlib
import socket


def free_ports(count):
    """Ports that nobody listened on a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def free_port():
    """One port that nobody listened on a moment ago."""
    return free_ports(1)[0]

"""Where the page and the server listen, and the key that clients need."""

import socket

from cldm.arguments import Range, check_whole

KEY = "CANNY2IMAGE_API_KEY"  # environment variable
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def free_port(host: str, port: int) -> int:
    """Return the port, or any free one for 0. Raise ValueError if it cannot be used."""
    check_whole("--port", port, Range(0, 65535))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            return int(one.getsockname()[1])
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be used ({error.strerror}): choose another port, or 0 for a free one"
        ) from error

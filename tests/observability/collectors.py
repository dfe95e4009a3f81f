"""Collectors that do not do their work: each listens on a loopback port and treats whoever comes badly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

_ANSWER_503 = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def _hang(_: socket.socket, stopped: threading.Event) -> None:
    stopped.wait(60)


def _cut(connection: socket.socket, _: threading.Event) -> None:
    with suppress(OSError):
        connection.recv(100)


def _refuse(connection: socket.socket, _: threading.Event) -> None:
    with suppress(OSError):
        connection.recv(1_000_000)
        connection.sendall(_ANSWER_503)


TROUBLES: dict[str, Callable[[socket.socket, threading.Event], None]] = {
    "hangs": _hang,
    "cuts": _cut,
    "is 503": _refuse,
}


@contextmanager
def bad_collector(trouble: str) -> Generator[str]:
    """Return the address of a collector that `is down`, or has another of the troubles."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    if trouble == "is down":
        listener.close()
        yield url
        return
    stopped = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            TROUBLES[trouble](connection, stopped)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield url
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(5)

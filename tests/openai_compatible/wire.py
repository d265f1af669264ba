"""A server that says byte for byte what a test has it say, and notes what it hears."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TLS = Path(__file__).parent / "tls"
OK = b"HTTP/1.1 200 OK\r\n"


class Peer:
    """The server's end of one connection."""

    def __init__(self, made: socket.socket, server: Wire, number: int) -> None:
        self.socket, self._server, self.number = made, server, number
        self._left = b""

    def request(self) -> tuple[str, bytes]:
        """The next request's head and body.

        Raises:
            EOFError: The client closed the connection.
        """
        while b"\r\n\r\n" not in self._left:
            self._receive()
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        while len(self._left) < length:
            self._receive()
        body, self._left = self._left[:length], self._left[length:]
        self._server.requests.append((head.decode(), body))
        return self._server.requests[-1]

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def reset(self) -> None:
        """Break off at once, as a process that was killed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def secure(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self._left += data


class Wire:
    """A listening socket; each connection is served by a script in a thread."""

    def __init__(self, script: Callable[[Peer], None], host: str = "127.0.0.1") -> None:
        self._script = script
        self._socket = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"
        self.requests: list[tuple[str, bytes]] = []
        self.connections = self.open = self.left = 0
        """Connections there were, those there are, and those that the client closed."""
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                made, _ = self._socket.accept()
                with self._lock:
                    self.connections += 1
                    self.open += 1
                peer = Peer(made, self, self.connections - 1)
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: Peer) -> None:
        left = 0
        try:
            self._script(peer)
        except (EOFError, ConnectionError):
            left = 1
        except OSError:  # TLS that the client gave up
            pass
        finally:
            peer.socket.close()
            with self._lock:
                self.open -= 1
                self.left += left


@contextmanager
def wired(script: Callable[[Peer], None], host: str = "127.0.0.1") -> Iterator[Wire]:
    """A server for a test."""
    server = Wire(script, host)
    try:
        yield server
    finally:
        server.close()


def whole(body: bytes, *fields: bytes, status: bytes = OK) -> bytes:
    """An answer in one piece."""
    return status + b"".join(field + b"\r\n" for field in (*fields, b"Content-Length: %d" % len(body))) + b"\r\n" + body

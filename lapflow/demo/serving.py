"""Serving a page: the socket, which is bound before anything slow is done, and an end that waits for
nobody."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress

from lapflow.core.errors import BackendError
from lapflow.demo.guard import App
from lapflow.demo.needed import uvicorn
from lapflow.demo.worker import Worker

MAX_CONNECTIONS = 64
SECONDS_TO_END = 5


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at `host`, `port` (0: a free one). Raises `BackendError` where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BackendError(
            "there is no such address", got=f"--host {host}: {error.strerror}", expected="such as 127.0.0.1"
        ) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(MAX_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise BackendError(
            f"the page cannot be served at {host}:{port}",
            got=error.strerror,
            remedy="name another --port; 0 takes a free one",
        ) from None
    return listening


def address(listening: socket.socket) -> str:
    """The URL at which this machine reaches a bound socket."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:  # every address of the machine, and itself none to open
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_private(listening: socket.socket) -> bool:
    """Whether only this machine reaches a bound socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """Calls `ready` once it answers and Ctrl-C is heard; ends the drawings before it waits for the answers,
    which would otherwise go on as long as they."""

    def __init__(self, app: App, worker: Worker, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                http="h11",
                ws="none",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=SECONDS_TO_END,
            )
        )
        self.worker, self.ready = worker, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.worker.stop()
        await super().shutdown(sockets)


def serve(app: App, worker: Worker, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C, in the main thread of a process. `ready` is called once the page can be opened."""
    worker.start()
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended
            Server(app, worker, ready).run(sockets=[listening])
    finally:
        worker.stop()
        worker.join(SECONDS_TO_END)

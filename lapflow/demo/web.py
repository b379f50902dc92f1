"""Serving the page: its three addresses, and the socket that they are reached by. Needs starlette and
uvicorn: without them importing this raises `BackendError`.

`GET /` is the page, `GET /capabilities` what can be chosen, `POST /draw` a sample while it is made: a line of
JSON for each event of `painter`. There is no other address, and no file is read for any. The socket is bound
before anything slow is done, and the end waits for nobody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from importlib import resources

from lapflow.core.errors import BackendError, LapflowError
from lapflow.demo.capabilities import Capabilities
from lapflow.demo.draw_request import MAX_BYTES, read_draw_request, resolve
from lapflow.demo.guard import App, Guard
from lapflow.demo.painter import Event, paint
from lapflow.demo.worker import ENDS, BusyError, Job, Worker

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send
except ImportError as error:
    raise BackendError(
        "the page needs the packages starlette and uvicorn",
        got=str(error),
        remedy="pip install 'lapflow[demo]'",
    ) from error

MAX_CONNECTIONS = 64
SECONDS_TO_END = 5
SECONDS_TO_ASK = 10.0
"""In which the body of a request must have come."""


def application(capabilities: Capabilities, worker: Worker, names: tuple[str, ...] = ()) -> App:
    """The page of a run, behind its guard, which knows the server by these `names`."""
    page = resources.files("lapflow.demo").joinpath("page.html").read_text(encoding="utf-8")
    document = capabilities.document()

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    async def choose(request: Request) -> Response:
        return JSONResponse(document)

    app = Starlette(
        routes=[
            Route("/", show),
            Route("/capabilities", choose),
            Route("/draw", _Draw(capabilities, worker), methods=["POST"]),
        ]
    )
    app.router.redirect_slashes = False
    return Guard(app, page, names)


class _Draw:
    """Answers a request with its events, and cancels the drawing when the page has gone."""

    def __init__(self, capabilities: Capabilities, worker: Worker) -> None:
        self.capabilities, self.worker = capabilities, worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            events, job = Events(), None
            try:
                body = await _body(Request(scope, receive))
                drawing = resolve(read_draw_request(body), self.capabilities)
                job = Job(
                    lambda tell, cancelled: paint(self.capabilities, drawing, tell, cancelled), events.tell
                )
                self.worker.submit(job)
                response: Response = StreamingResponse(events.lines(), media_type="application/x-ndjson")
            except RequestError as refused:
                response = _error(refused.status, str(refused))
            except BusyError as error:
                response = _error(503, str(error), {"Retry-After": "2"})
            except LapflowError as error:
                response = _error(400, str(error))
            try:
                await response(scope, receive, send)
            finally:
                if job is not None:
                    self.worker.cancel(job)


class RequestError(Exception):
    """A request that is not read to its end, with the status that says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def _body(request: Request) -> bytes:
    """The body of a request, of bounded size, in bounded time."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "the request must be JSON")
    body = b""
    try:
        async with asyncio.timeout(SECONDS_TO_ASK):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise RequestError(413, f"the request is too large: more than {MAX_BYTES} bytes")
    except TimeoutError:
        raise RequestError(408, f"the request did not come within {SECONDS_TO_ASK:g} seconds") from None
    return body


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    # The rest of a body that was not read would stand before the next request of the connection.
    return JSONResponse({"error": text}, status, {"Connection": "close", **(headers or {})})


class Events:
    """A job's events on their way from the worker's thread to the answer. A picture of the state that a slow
    page has not read gives way to the next: what it reads is never old, and little lies ready for it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.unread: deque[Event] = deque()
        self.told = asyncio.Event()

    def tell(self, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended without waiting
            self.loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event) -> None:
        if event["event"] == "step":
            self.unread = deque(other for other in self.unread if other["event"] != "step")
        self.unread.append(event)
        self.told.set()

    async def lines(self) -> AsyncIterator[str]:
        while True:
            await self.told.wait()
            event = self.unread.popleft()
            if not self.unread:
                self.told.clear()
            yield json.dumps(event) + "\n"
            if event["event"] in ENDS:
                return


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

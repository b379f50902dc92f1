"""The server under attack: names, origins, paths, sizes, crowds, and pages that go away. Asked over real
sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest

from lapflow.core.errors import BackendError
from lapflow.demo import web
from lapflow.demo.web import address, bind, is_private
from lapflow.demo.worker import MAX_WAITING, Worker
from tests.demo.builders import ask, capabilities, events, server, until

WISH = {"class": "3", "guidance": 1.5, "solver": "heun", "steps": 2, "seed": 7}
LONG = {**WISH, "solver": "rk4", "steps": 500}
"""Four thousand evaluations: it never ends within a test by itself."""


@pytest.fixture(scope="module")
def worker():
    return Worker()


@pytest.fixture(scope="module")
def port(worker):
    with server(capabilities(), worker, ("demo.example",)) as port:
        yield port


def start(port, draw_request=LONG):
    """A connection on which a drawing was asked for, as yet unread."""
    body = json.dumps(draw_request).encode()
    asking = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = (
        f"POST /draw HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: "
        f"http://127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    )
    asking.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return asking


def status(asking):
    return int(asking.recv(65536).split(b" ", 2)[1])


def test_the_page_is_served_and_closed(port):
    code, headers, text = ask(port, "GET", "/")
    assert code == 200
    assert headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert (
        policy["default-src"]
        == policy["base-uri"]
        == policy["form-action"]
        == policy["frame-ancestors"]
        == "'none'"
    )
    assert policy["img-src"] == "data:"
    assert policy["connect-src"] == "'self'"
    for kind in ("script-src", "style-src"):
        assert policy[kind].startswith("'sha256-")
        assert "unsafe" not in policy[kind]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert "http:" not in text.replace("http://www.w3.org", ""), (
        "nothing in the page is fetched from elsewhere"
    )
    assert "https:" not in text


def test_every_answer_has_the_headers(port):
    for method, path, change in (
        ("GET", "/nothing", {}),
        ("GET", "/draw", {}),
        ("GET", "/", {"Host": "evil.example"}),
        ("POST", "/draw", {}),
    ):
        code, headers, _ = ask(port, method, path, headers=change)
        assert code >= 400
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/%252e%252e/etc/passwd",
        "/..\\..\\etc\\passwd",
        "/....//....//etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/page.html",
        "/static/page.html",
        "/server.py",
        "/capabilities/../config.yaml",
        "/capabilities/",
        "/draw/..",
        "/%00",
        "/?file=/etc/passwd/../x",
    ],
)
def test_no_path_leads_to_a_file(port, path):
    code, _, text = ask(port, "GET", path)
    assert "root:" not in text
    if path.startswith("/?"):
        assert text == ask(port, "GET", "/")[2]
    else:
        assert (code, text) == (404, "Not Found")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "localhost:9",
        "[::1]:80",
        "192.168.0.7:8360",
        "demo.example:80",
        "DEMO.example",
    ],
)
def test_own_names_and_addresses_are_answered(port, host):
    assert ask(port, "GET", "/capabilities", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8360",
        "",
        "[::1",
        "evil.example@x",
        "1.2.3",
    ],
)
def test_other_names_are_refused(port, host):
    """A name of a stranger's that was bent to this address."""
    for method, path in (("GET", "/"), ("GET", "/capabilities"), ("POST", "/draw")):
        assert ask(port, method, path, WISH, {"Host": host, "Origin": f"http://{host}"})[0] in (400, 403)


def test_a_request_needs_one_host(port):
    for hosts in ("", f"Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as asking:
            asking.sendall(f"GET /capabilities HTTP/1.1\r\n{hosts}\r\n".encode())
            assert status(asking) in (400, 403)


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "http://127.0.0.1", "file://", ""]
)
def test_other_pages_cannot_draw(port, origin):
    code, _, text = ask(port, "POST", "/draw", WISH, {"Origin": origin})
    assert code == 403
    assert "own page" in text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(port, method):
    assert ask(port, method, "/draw", WISH)[0] == 405
    assert ask(port, method, "/")[0] == 405


def test_a_sample_is_streamed(port):
    code, headers, text = ask(port, "POST", "/draw", WISH)
    assert code == 200
    assert headers["content-type"].startswith("application/x-ndjson")
    assert events(text)[-1]["event"] == "done"


def test_what_is_wrong_is_said(port):
    code, _, text = ask(port, "POST", "/draw", {**WISH, "guidance": 99})
    assert code == 400
    assert "guidance" in json.loads(text)["error"]
    assert ask(port, "POST", "/draw", {**WISH, "class": "../../etc/passwd"})[0] == 400
    assert ask(port, "POST", "/draw", WISH, {"Content-Type": "text/plain"})[0] == 415


def test_a_large_body_is_not_read(port):
    assert ask(port, "POST", "/draw", b" " * 5000)[0] == 413
    with start(port, {}) as _, socket.create_connection(("127.0.0.1", port), timeout=30) as asking:
        head = (
            f"POST /draw HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: "
            f"http://127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        )
        asking.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode() + b" " * 6000)
        assert status(asking) == 413
    with socket.create_connection(("127.0.0.1", port), timeout=30) as asking:
        asking.sendall(
            f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"2000\r\n" + b" " * 0x2000 + b"\r\n"
        )
        assert status(asking) == 413


def test_a_body_that_does_not_come_is_given_up(port, monkeypatch):
    monkeypatch.setattr(web, "SECONDS_TO_ASK", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as asking:
        head = (
            f"POST /draw HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: "
            f"http://127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        )
        asking.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert status(asking) == 408


def test_a_page_that_goes_away_frees_the_sampler(port, worker):
    for closing in (lambda s: s.close(), lambda s: s.shutdown(socket.SHUT_RDWR)):
        asking = start(port)
        assert status(asking) == 200
        assert not worker.idle
        closing(asking)
        assert until(lambda: worker.idle, 10), "long before the drawing would have been done"
        asking.close()


def test_a_crowd_is_refused_and_leaves_nothing_behind(port, worker):
    crowd = [start(port) for _ in range(50)]
    codes = [status(asking) for asking in crowd]
    assert codes.count(200) == 1 + MAX_WAITING
    assert codes.count(503) == 50 - 1 - MAX_WAITING
    code, headers, text = ask(port, "POST", "/draw", WISH)
    assert code == 503
    assert "busy" in json.loads(text)["error"]
    assert "retry-after" in headers
    assert ask(port, "GET", "/")[0] == 200, "the page itself is served all the while"
    for asking in crowd:
        asking.close()
    assert until(lambda: worker.idle, 20)
    assert ask(port, "POST", "/draw", WISH)[0] == 200


def test_who_does_not_read_does_not_keep_the_sampler(port, worker):
    asking = start(port, {**WISH, "steps": 50})
    assert until(lambda: worker.idle, 30)
    assert ask(port, "POST", "/draw", WISH)[0] == 200
    asking.close()


def test_of_unread_pictures_of_the_state_the_newest_is_kept():
    """However slowly a page reads, it never sees an old state last; whatever else is told comes in its
    order."""

    async def read():
        events = web.Events()
        for told in (
            {"event": "step", "t": 0.1},
            {"event": "column"},
            {"event": "step", "t": 0.2},
            {"event": "step", "t": 0.3},
        ):
            events.tell(told)
        await asyncio.sleep(0)
        lines = events.lines()
        seen = [json.loads(await anext(lines)) for _ in range(2)]
        for told in ({"event": "step", "t": 0.4}, {"event": "done"}):
            events.tell(told)
        return seen + [json.loads(line) async for line in lines]

    assert asyncio.run(read()) == [
        {"event": "column"},
        {"event": "step", "t": 0.3},
        {"event": "step", "t": 0.4},
        {"event": "done"},
    ]


def test_stopping_ends_a_drawing_at_once():
    worker = Worker()
    with server(capabilities(), worker) as port:
        asking = start(port)
        assert status(asking) == 200
        began = time.monotonic()
    assert time.monotonic() - began < 4
    rest = b""
    while chunk := asking.recv(65536):
        rest += chunk
    assert b'"event": "stopped"' in rest
    asking.close()


def test_a_failure_is_told_and_the_server_goes_on(capsys):
    made = capabilities()
    handle = made.pipeline.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with server(made, Worker()) as port:
        told = events(ask(port, "POST", "/draw", WISH)[2])
        assert told[-1]["event"] == "error"
        assert "ZeroDivisionError" in told[-1]["text"]
        handle.remove()
        assert events(ask(port, "POST", "/draw", WISH)[2])[-1]["event"] == "done"
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_threads_of_many_requests_end(port, worker):
    before = threading.active_count()
    for _ in range(5):
        assert ask(port, "POST", "/draw", WISH)[0] == 200
    assert until(lambda: threading.active_count() <= before, 5)


def test_addresses():
    with bind("127.0.0.1", 0) as one:
        assert is_private(one)
        port = int(address(one).rstrip("/").rpartition(":")[2])
        with pytest.raises(BackendError, match=f"127.0.0.1:{port}") as error:
            bind("127.0.0.1", port)
        assert "--port" in str(error.value)
    with bind("0.0.0.0", 0) as every:
        assert not is_private(every)
        assert address(every).startswith("http://127.0.0.1:")
    with pytest.raises(BackendError, match="no such address"):
        bind("nowhere.invalid", 0)

"""Who may ask a page that only its own machine's user should use, and what every answer says to the browser.

A web page from elsewhere can send requests to 127.0.0.1 from the user's browser. `Host` tells it apart where
its own name was bent to this address (DNS rebinding): names are refused, addresses cannot be bent. `Origin`
tells it apart everywhere else. Plain ASGI, so that nothing stands before it.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Send], Awaitable[None]]


class Guard:
    """Refuses requests under another name than `names` (addresses and localhost apart) and POSTs from other
    pages, and puts the headers of a closed page on every answer. `page` is the HTML, whose own scripts and
    styles alone may run."""

    def __init__(self, app: App, page: str, names: tuple[str, ...]) -> None:
        self.app, self.names = app, {"localhost", *(name.lower() for name in names)}
        self.headers = _headers(page)

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Message]], send: Send
    ) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        reason = self._refusal(
            scope["method"], [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        )
        if reason is None:
            return await self.app(scope, receive, with_headers)
        text = (b"content-type", b"text/plain; charset=utf-8")
        await with_headers({"type": "http.response.start", "status": 403, "headers": [text]})
        await with_headers({"type": "http.response.body", "body": reason.encode()})

    def _refusal(self, method: str, headers: list[tuple[str, str]]) -> str | None:
        """Why a request is refused, or None."""
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) != 1 or not self._known(hosts[0]):
            return (
                "lapflow demo is not known by this name: open it by its address, or start it with --host "
                "NAME\n"
            )
        origins = [value for name, value in headers if name == "origin"]
        if method not in ("GET", "HEAD") and origins not in ([f"http://{hosts[0]}"], [f"https://{hosts[0]}"]):
            return "lapflow demo takes requests from its own page only\n"
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self.names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _headers(page: str) -> list[tuple[bytes, bytes]]:
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(page, "script"),
        "style-src": _hashes(page, "style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _hashes(page: str, tag: str) -> str:
    """The sources that allow what stands between the page's own <tag>s, and nothing else."""
    inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inside]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

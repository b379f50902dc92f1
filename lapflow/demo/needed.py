"""What the page is served by: names of starlette, and uvicorn. Importing this raises `BackendError` without
them."""

from __future__ import annotations

from lapflow.core.errors import BackendError

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

__all__ = [
    "ClientDisconnect",
    "HTMLResponse",
    "JSONResponse",
    "Receive",
    "Request",
    "Response",
    "Route",
    "Scope",
    "Send",
    "Starlette",
    "StreamingResponse",
    "uvicorn",
]

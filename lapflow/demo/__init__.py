"""`lapflow demo`: a page to play with a run. It needs the extra `[demo]`.

    offer.py     what a run lets one choose, and within which bounds
    wish.py      what a page asks for, checked; the command line that repeats it
    painter.py   one sample, told step by step
    worker.py    one sample at a time, a bounded queue, and ending what nobody waits for
    guard.py     who may ask: host and origin; the headers of every answer
    web.py       the three addresses of the page, the size of what it is sent
    serving.py   the socket, and Ctrl-C
    page.html    the page

Only web.py and serving.py import starlette and uvicorn, and nothing else imports them without `require_packages`.
"""

from __future__ import annotations

from lapflow.core.errors import BackendError


def require_packages() -> None:
    """Raises `BackendError` unless the page can be served."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise BackendError(
            "the page needs the packages starlette and uvicorn", got=str(error), remedy="pip install 'lapflow[demo]'"
        ) from error

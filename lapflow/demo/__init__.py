"""`lapflow demo`: a page to play with a run. It needs the extra `[demo]`.

    capabilities.py  what a run lets one choose, and within which bounds
    draw_request.py  what a page asks for, checked; the command line that repeats it
    painter.py       one sample, told step by step
    worker.py        one sample at a time, a bounded queue, and ending what nobody waits for
    guard.py         who may ask: host and origin; the headers of every answer
    web.py           the three addresses of the page, the size of what it is sent, the socket, and Ctrl-C
    page.html        the page

Only web.py imports starlette and uvicorn; without them it raises a `BackendError` that names the extra.
"""

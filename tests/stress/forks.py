"""Child processes by fork: a parent that has imported torch starts hundreds of them in a minute."""

import os
import traceback
from collections.abc import Callable


def start(action: Callable[[], object]) -> int:
    """The process id of a child that does `action` and ends: code 0, or 1 and a traceback for an error."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def wait(child: int) -> int:
    """The exit code of a child, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(action: Callable[[], object]) -> int:
    return wait(start(action))

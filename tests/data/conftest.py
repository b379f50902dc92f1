"""What the tests of reading share."""

import signal

import pytest


@pytest.fixture
def no_hang():
    """A read that waits for ever fails its test after two minutes, and does not hold up the suite."""

    def stop(*_):
        raise TimeoutError("still waiting after two minutes")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

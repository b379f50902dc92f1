"""One drawing at a time, few that wait, and a worker that outlives whatever a drawing does."""

from __future__ import annotations

import threading

import pytest

from lapflow.core.errors import ConfigError
from lapflow.demo.painter import NotWantedError
from lapflow.demo.worker import BusyError, Job, Worker
from tests.demo.builders import until


class Slow:
    """Work that goes on until it is let go or cancelled."""

    def __init__(self):
        self.begun, self.go, self.told = threading.Event(), threading.Event(), []
        self.job = Job(self.work, self.told.append)

    def work(self, tell, cancelled):
        self.begun.set()
        while not self.go.wait(0.005):
            if cancelled():
                raise NotWantedError
        tell({"event": "done"})

    @property
    def kinds(self):
        return [(event["event"], event.get("before")) for event in self.told]


@pytest.fixture
def worker():
    made = Worker(max_waiting=2)
    made.start()
    yield made
    made.stop()
    assert made.join(10)


def test_one_at_a_time_in_order_and_the_places_are_told(worker):
    jobs = [Slow() for _ in range(3)]
    for job in jobs:
        worker.submit(job.job)
    assert jobs[0].begun.wait(10)
    assert not jobs[1].begun.wait(0.05)
    jobs[0].go.set()
    assert jobs[1].begun.wait(10)
    assert not jobs[2].begun.is_set()
    jobs[1].go.set()
    jobs[2].go.set()
    assert until(lambda: worker.idle)
    assert jobs[2].kinds[0] == ("waiting", 2)
    assert ("waiting", 1) in jobs[2].kinds
    assert all(job.kinds[-1] == ("done", None) for job in jobs)


def test_no_more_than_so_many_wait(worker):
    jobs = [Slow() for _ in range(4)]
    for job in jobs[:3]:
        worker.submit(job.job)
    with pytest.raises(BusyError, match="busy") as error:
        worker.submit(jobs[3].job)
    assert "at most 2" in str(error.value)
    assert jobs[3].told == []
    worker.cancel(jobs[1].job)
    worker.submit(jobs[3].job)
    assert jobs[2].kinds[-1] == ("waiting", 1), "who waits moves up"


def test_a_cancelled_job_frees_the_worker(worker):
    running, waiting = Slow(), Slow()
    worker.submit(running.job)
    worker.submit(waiting.job)
    assert running.begun.wait(10)
    worker.cancel(running.job)
    assert waiting.begun.wait(10)
    assert running.kinds[-1] == ("stopped", None)
    worker.cancel(running.job)  # a page that goes away after its picture
    waiting.go.set()
    assert until(lambda: worker.idle)


def test_errors_are_told_and_the_next_job_runs(worker, capsys):
    told = []

    def refuse(tell, cancelled):
        raise ConfigError("too hot", expected="cold")

    def break_down(tell, cancelled):
        raise RuntimeError("out of memory at /home/someone/secret.py")

    for work in (refuse, break_down):
        worker.submit(Job(work, told.append))
    last = Slow()
    last.go.set()
    worker.submit(last.job)
    assert until(lambda: last.kinds and last.kinds[-1] == ("done", None))
    texts = [event["text"] for event in told if event["event"] == "error"]
    assert "too hot" in texts[0]
    assert "RuntimeError" in texts[1]
    assert "secret" not in texts[1], "the terminal says it, not the page"
    assert "out of memory" in capsys.readouterr().err


def test_stopping_ends_what_runs_and_what_waits():
    worker = Worker()
    worker.start()
    jobs = [Slow() for _ in range(3)]
    for job in jobs:
        worker.submit(job.job)
    assert jobs[0].begun.wait(10)
    worker.stop()
    assert worker.join(10)
    assert all(job.kinds[-1] == ("stopped", None) for job in jobs)
    assert not jobs[1].begun.is_set()
    with pytest.raises(BusyError, match="stopped"):
        worker.submit(Slow().job)

"""`lapflow demo` as a person calls it: what it prints, what it refuses, and Ctrl-C."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from lapflow.cli import main
from tests.demo.builders import ask, command, trained
from tests.demo.test_server import LONG, start, status


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("demo") / "run")


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["demo", *map(str, arguments)])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_busy_port_and_a_missing_run_are_said_at_once(run, capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in (said := refused(capsys, run, "--port", port))
        assert "--port" in said
        assert "Traceback" not in said
    assert "is not a run folder" in refused(capsys, tmp_path / "none", "--port", 0)
    assert "no such address" in refused(capsys, run, "--host", "nowhere.invalid")
    assert "65535" in refused(capsys, run, "--port", 70000)


def test_ctrl_c_ends_it_also_in_the_middle_of_a_sample(run):
    with command(run) as (process, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        assert url == f"http://127.0.0.1:{port}/"
        assert ask(port, "GET", "/")[0] == 200
        with pytest.raises(OSError):
            socket.create_connection((own_address(), port), timeout=2)  # nobody but this machine
        with start(port, LONG) as asking:
            assert status(asking) == 200
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert time.monotonic() - began < 10
        assert out == "ended\n"
        assert err == ""


def own_address():
    """An address of this machine that is not loopback; one that is nobody's where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # nothing is sent
            found = asking.getsockname()[0]
        except OSError:
            return "127.0.0.2"
    return "127.0.0.2" if found.startswith("127.") else found


def test_ctrl_c_of_a_page_that_is_only_open(run):
    with command(run, "--weights", "raw", "--device", "cpu") as (process, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "ended\n", "")

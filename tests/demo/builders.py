"""Runs and servers for the page's tests: compositions that were never trained, since what is tested is not
how they look."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lapflow.config.building import build_codec, build_conditioner, build_engine, build_flow, build_model
from lapflow.config.loading import load_config
from lapflow.demo.capabilities import Capabilities
from lapflow.demo.web import Server, address, application, bind
from lapflow.demo.worker import Worker
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.loop import train
from tests.support import small_autoencoder

ROOT = Path(__file__).parents[2]
SMALL = ["model.width=32", "model.heads=2", "model.depth=1"]


def pipeline(
    recipe: str = "lapflow-digits",
    *overrides: str,
    classes: tuple[str, ...] = tuple("0123456789"),
    shape: tuple[int, int, int] = (1, 8, 8),
    small: list[str] = SMALL,
) -> Pipeline:
    """A composition with random weights; `shape` is that of its images."""
    config = load_config(recipe, [*small, *overrides])
    flow, codec = build_flow(config), build_codec(config)
    latent = codec.latent_shape(shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (
            build_model(config, flow, latent, build_conditioner(config, classes).parts(), "cpu")
            .eval()
            .requires_grad_(False)
        )
        for parameter in (
            model.parameters()
        ):  # what begins at zero would say nothing, and every setting would give one picture
            parameter.data += 0.05 * torch.randn_like(parameter)
    conditioner, engine = build_conditioner(config, classes), build_engine(config, "cpu")
    return Pipeline(config, flow, model, codec, conditioner, engine, latent, classes, 0, "raw")


def capabilities(*arguments: Any, **options: Any) -> Capabilities:
    return Capabilities.of(Path("runs/a run"), pipeline(*arguments, **options), {})


def trained(folder: Path, *overrides: str) -> Path:
    """A run of two steps, as `lapflow train` leaves it."""
    tiny = [*SMALL, "training.batch_size=16", "training.steps=2", "training.warmup_steps=0"]
    train(load_config("lapflow-digits", [*tiny, *overrides]), folder)
    return folder


@contextmanager
def command(run: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`lapflow demo RUN`, as a process of its own, and its address."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "lapflow.cli", "demo", str(run), "--port", "0", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + (process.communicate(timeout=60)[1] if not line else "")
        yield process, found[0]
    finally:
        process.kill()
        process.communicate(timeout=60)


@contextmanager
def server(of: Capabilities, worker: Worker, names: tuple[str, ...] = ()) -> Iterator[int]:
    """The port of a server in this process."""
    listening = bind("127.0.0.1", 0)
    serving = Server(application(of, worker, names), worker, lambda: None)
    worker.start()
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield int(address(listening).rstrip("/").rpartition(":")[2])
    finally:
        serving.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        assert worker.join(30)


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """(status, headers, text) of an answer; a header of None is left out. POSTs are as the page sends
    them."""
    own = f"127.0.0.1:{port}"
    given: dict[str, Any] = {
        "Host": own,
        "Origin": f"http://{own}",
        "Content-Type": "application/json",
        **(headers or {}),
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if data is not None:
        given = {"Content-Length": str(len(data)), **given}
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(data)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def until(true: Any, seconds: float = 20.0) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def codec_pipeline(folder: Path) -> Capabilities:
    """Unconditional, in the latents of a small autoencoder of 16x16 colour images."""
    autoencoder = small_autoencoder(folder / "autoencoder")
    codec = f"codec={{name: autoencoder-kl, path: {autoencoder}, factor: 2, channels: 2}}"
    return capabilities("lapflow-digits", codec, classes=(), shape=(3, 16, 16))

"""Learning rate, moving average, event log."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lapflow.training.events import EventLog, read_events, unreadable_lines
from lapflow.training.step import EMA, learning_rate


@given(
    steps=st.integers(1, 500),
    warmup=st.integers(0, 100),
    decay=st.sampled_from(["constant", "cosine", "linear"]),
    final=st.floats(0, 1),
)
def test_learning_rate_rises_then_falls(steps, warmup, decay, final):
    rates = [learning_rate(i, steps, peak=2.0, warmup=warmup, decay=decay, final=final) for i in range(steps)]
    assert all(0 <= r <= 2.0 + 1e-12 for r in rates)
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[warmup:]))
    if steps > warmup:
        assert rates[warmup] == 2.0


def test_decays_end_where_they_should():
    end = {
        d: learning_rate(1000, 1000, peak=1.0, warmup=0, decay=d, final=0.1)
        for d in ("constant", "cosine", "linear")
    }
    assert end == pytest.approx({"constant": 1.0, "cosine": 0.1, "linear": 0.1})


def test_ema_is_the_weighted_mean_of_the_weights():
    weights = [{"w": torch.randn(3, dtype=torch.bfloat16), "n": torch.tensor(1)} for _ in range(50)]
    ema, expected = EMA(weights[0], 0.9), weights[0]["w"].float()
    for n, w in enumerate(weights[1:], 1):
        ema.update(w)
        d = min(0.9, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * w["w"].float()
    torch.testing.assert_close(ema.shadow["w"], expected)
    assert ema.shadow["w"].dtype == torch.float32


def test_a_resumed_log_keeps_the_later_word(tmp_path):
    log = EventLog(tmp_path, lambda event: None, tensorboard=False)
    for event in ({"event": "train", "step": 10, "loss": 3.0}, {"event": "train", "step": 20, "loss": 2.0}):
        log(event)
    log({"event": "resume", "step": 10})
    log({"event": "train", "step": 20, "loss": 1.0})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "tra')
    assert [e["loss"] for e in read_events(tmp_path) if e["event"] == "train"] == [3.0, 1.0]


def test_what_follows_half_a_line_is_a_line_of_its_own(tmp_path):
    """A run killed while it wrote a line: the next event, its resumption, must not be lost with it."""
    (tmp_path / "log.jsonl").write_text('{"event": "train", "step": 10, "loss": 3.0}\n{"event": "tra')
    log = EventLog(tmp_path, lambda event: None, tensorboard=False)
    log({"event": "resume", "step": 5})
    log.close()
    assert [e["event"] for e in read_events(tmp_path)] == ["resume"]
    assert unreadable_lines(tmp_path) == 1


def test_tensorboard_files_are_written(tmp_path):
    log = EventLog(tmp_path, lambda event: None, tensorboard=True)
    log({"event": "train", "step": 1, "loss": 1.0})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events*"))

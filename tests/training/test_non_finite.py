"""A loss that is not finite: nothing is updated anywhere, it is counted and named, and the run stops or goes
on as told."""

import pytest
import torch

from lapflow.data.loader import place
from lapflow.training import step
from lapflow.training.events import read_events
from lapflow.training.loop import TrainingError, train
from tests.backends.launching import make_infinite, train_all
from tests.training.runs import last, same
from tests.training.test_run import TINY, tiny

BAD = 40
"""A position of the data order in the third batch of 16."""
FROM = (
    "training.checkpoint_every=2",
    "training.log_every=1",
    "training.steps=6",
    "flow.intervals.segment_sampling=batch",
)


@pytest.fixture
def infinite(monkeypatch):
    monkeypatch.setattr(step, "_loss", step._loss)  # put back at the end
    make_infinite({BAD})


def told(run):
    return [e for e in read_events(run) if e["event"] == "non_finite"]


def finite(checkpoint):
    return all(torch.isfinite(x).all() for tensors in checkpoint.tensors.values() for x in tensors.values())


def test_the_run_stops_before_the_update(tmp_path, infinite):
    with pytest.raises(
        TrainingError, match=r"step 3[\s\S]*train/[\s\S]*non_finite=skip[\s\S]*step-0000002 is intact"
    ):
        train(tiny(*FROM), tmp_path)
    assert last(tmp_path).documents["state"]["step"] == 2
    assert finite(last(tmp_path))


def test_a_step_is_left_out_and_counted(tmp_path, infinite):
    run = train(tiny(*FROM, "training.non_finite=skip"), tmp_path)
    state = last(run).documents["state"]
    assert state == {"step": 6, "consumed": 96, "ema_updates": 5, "skipped": 1}
    assert finite(last(run))
    (event,) = told(run)
    assert (event["step"], event["skipped"], event["batches"][0]["loss"]) == (3, 1, "inf")
    assert event["batches"][0]["samples"] == [
        f"train/{place(0, 1438, position)[1]}" for position in range(32, 48)
    ]
    logged = [e for e in read_events(run) if e["event"] == "train"]
    assert [e["step"] for e in logged if "loss" not in e] == [3]


def test_the_left_out_step_changes_nothing_but_the_counts(tmp_path, infinite):
    before = train(tiny(*FROM, "training.non_finite=skip"), tmp_path / "run")
    kept = {p.name for p in (before / "checkpoints").glob("step-*")}
    assert kept == {"step-0000004", "step-0000006"}
    short = train(
        tiny(*FROM, "training.non_finite=skip", "training.steps=3", "training.decay=constant"),
        tmp_path / "three",
    )
    two = train(tiny(*FROM, "training.steps=2", "training.decay=constant"), tmp_path / "two")
    for group in ("model", "ema", "optimizer"):
        for name, x in last(two).tensors[group].items():
            assert torch.equal(x, last(short).tensors[group][name]), name


def test_a_run_that_left_out_a_step_resumes_bit_for_bit(tmp_path, infinite):
    class CutError(Exception):
        pass

    def cut(event):
        if event["event"] == "checkpoint" and event["step"] == 4:
            raise CutError

    whole = train(tiny(*FROM, "training.non_finite=skip"), tmp_path / "whole")
    with pytest.raises(CutError):
        train(tiny(*FROM, "training.non_finite=skip"), tmp_path / "cut", cut)
    same(last(whole), last(train(tiny(*FROM, "training.non_finite=skip"), tmp_path / "cut")))


def test_too_many_left_out_steps_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "_loss", step._loss)
    make_infinite(set(range(16, 96)))
    with pytest.raises(TrainingError, match="but for 2 steps"):
        train(tiny(*FROM, "training.non_finite=skip", "training.max_skipped=2"), tmp_path)
    assert [e["skipped"] for e in told(tmp_path)] == [1, 2, 3]


@pytest.mark.xdist_group("processes")
def test_one_rank_s_loss_keeps_all_from_updating(tmp_path):
    """The bad sample is in the share of rank 1 alone; both leave the step out, and stay one run, under every
    engine."""
    engines = [
        "{name: torch}",
        "{name: torch, parallel: fsdp2}",
        *(f"{{name: deepspeed, device: cpu, zero: {i}}}" for i in range(4)),
    ]
    options = [*TINY, *FROM, "training.non_finite=skip", "training.checkpoint_every=6"]
    jobs = [
        ("lapflow-digits", [*options, f"engine={engine}"], tmp_path / str(i))
        for i, engine in enumerate(engines)
    ]
    train_all(jobs, LAPFLOW_TEST_INFINITE=str(BAD + 4))
    for *_, run in jobs:
        assert last(run).documents["state"] == {"step": 6, "consumed": 96, "ema_updates": 5, "skipped": 1}
        assert finite(last(run))
        (event,) = told(run)
        assert [(batch["rank"], len(batch["samples"])) for batch in event["batches"]] == [(1, 8)]

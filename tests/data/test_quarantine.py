"""The list of bad images: once each, durable, shared by processes, and an end to the run when there are too
many."""

from __future__ import annotations

import json
import multiprocessing
import os

import numpy as np
import pytest
import torch
from PIL import Image

from lapflow.config.building import build_dataset
from lapflow.config.loading import load_config
from lapflow.core.errors import DataError
from lapflow.data import indices
from lapflow.data.quarantine import Quarantine, Unreadable, listed
from lapflow.evaluation.evaluate import evaluate_images
from lapflow.evaluation.run import evaluate_run, summary
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.checkpoint import latest_checkpoint, load_checkpoint
from lapflow.training.events import read_events
from lapflow.training.loop import train
from tests.data.bad_images import UNREADABLE


def bad(*names):
    return [Unreadable(name, 0, "an empty file", "good.png") for name in names]


def names_in(file):
    return [json.loads(line)["name"] for line in file.read_text().splitlines() if line]


def test_each_name_is_listed_once(tmp_path):
    file = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(file, 100, 0.1)
    assert quarantine.add(()) == []
    assert not file.exists()
    assert quarantine.add(bad("a", "b", "a")) == ["a", "b"]
    assert quarantine.add(bad("b", "c")) == ["c"]
    assert quarantine.count == 3
    assert (
        file.read_text().splitlines()[0]
        == '{"name": "a", "cause": "an empty file", "substitute": "good.png"}'
    )
    assert names_in(file) == ["a", "b", "c"]
    assert listed(file) == 3
    assert listed(tmp_path / "none") == 0


def test_odd_names_come_back_as_they_are(tmp_path):
    file = tmp_path / "quarantine.jsonl"
    odd = ["two\nlines.png", os.fsdecode(b"\xff.png"), "\N{GRINNING FACE}", '"\\']
    Quarantine(file, 100, 0.1).add(bad(*odd))
    assert len(file.read_text().splitlines()) == 4
    assert names_in(file) == odd
    assert Quarantine(file, 100, 0.1).add(bad(*odd)) == []


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_torn_last_line_is_no_line(tmp_path, kept):
    file = tmp_path / "quarantine.jsonl"
    Quarantine(file, 100, 0.1).add(bad("a", "b"))
    whole = file.read_bytes()
    second = whole.index(b"\n") + 1
    file.write_bytes(whole[: second + int(kept * (len(whole) - second))])
    again = Quarantine(file, 100, 0.1)
    assert again.count == 1
    assert again.add(bad("c", "b")) == ["c", "b"]
    assert Quarantine(file, 100, 0.1).count == 3
    file.write_bytes(file.read_bytes() + b"\x00\xffrubbish\n[1]\n3\n")
    assert Quarantine(file, 100, 0.1).count == 3


def test_the_budget(tmp_path):
    for size, budget, allowed in [
        (100, 0.0, 0),
        (10, 0.01, 1),
        (1000, 0.01, 10),
        (10, 0.3, 3),
        (100, 0.29, 29),
        (5, 1.0, 5),
    ]:
        assert Quarantine(tmp_path / "none", size, budget).allowed == allowed
    with pytest.raises(DataError, match="too many"):
        Quarantine(tmp_path / "zero", 100, 0).add(bad("a"))
    file = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(file, 100, 0.03)
    quarantine.add(bad("a", "b", "c"))
    with pytest.raises(DataError, match="too many images cannot be read") as error:
        quarantine.add(bad("two\nlines", "e"))
    for words in (
        str(file),
        "5 of 100: a, b, c, ...",
        "at most 3 (training.bad_images=0.03)",
        "delete the list",
    ):
        assert words in str(error.value)
    with pytest.raises(DataError, match="too many"):  # starting again does not get around it
        Quarantine(file, 100, 0.03).add(bad("a"))
    assert Quarantine(file, 100, 0.03).add(()) == []  # but mending the images does


def test_a_disk_that_refuses_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot be written") as error:
        Quarantine(tmp_path / "no folder" / "q.jsonl", 10, 1).add(bad("a"))
    assert "No such file" in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        Quarantine(tmp_path, 10, 1)


def _append(file, rank, barrier):
    quarantine = Quarantine(file, 10**6, 1)
    barrier.wait()
    for i in range(200):
        quarantine.add([Unreadable(f"{rank}/{i}" + "x" * 300, i, "cause", "y")])
        quarantine.add([Unreadable(f"both/{i}", i, "cause", "y")])


def test_processes_append_to_one_list(tmp_path):
    file, context = tmp_path / "quarantine.jsonl", multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_append, args=(file, rank, barrier)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    lines = file.read_text().splitlines()
    assert all(json.loads(line)["cause"] == "cause" for line in lines), "a line was broken"
    assert listed(file) == 800


def test_a_process_learns_what_others_listed_when_it_meets_a_bad_image(tmp_path):
    first, second = (Quarantine(tmp_path / "quarantine.jsonl", 100, 0.03) for _ in range(2))
    first.add(bad("a", "b", "c"))
    assert second.count == 0
    assert second.add(bad("b")) == []
    assert second.count == 3
    with pytest.raises(DataError, match="too many"):
        second.add(bad("d"))
    assert names_in(tmp_path / "quarantine.jsonl") == ["a", "b", "c", "d"]


# ---- whole runs
TINY = [
    "model.width=32",
    "model.heads=2",
    "model.depth=1",
    "model.patch=2",
    "data.size=8",
    "training.warmup_steps=0",
]
GOOD = 28


@pytest.fixture
def pictures(tmp_path):
    """40 images in two classes, 12 of them bad in 12 ways: 30 %."""
    root = tmp_path / "pictures"
    kinds = list(UNREADABLE)[:: len(UNREADABLE) // 12][:12]
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
    for i in range(GOOD):
        noise = np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(noise).save(root / ("ant", "bee")[i % 2] / f"{i}.png")
    for i, kind in enumerate(kinds):
        UNREADABLE[kind][0](root / ("ant", "bee")[i % 2] / kind)
    return root


def config(pictures, *overrides, steps=6):
    options = [
        f"data.root={pictures}",
        *TINY,
        f"training.steps={steps}",
        "training.batch_size=8",
        "training.checkpoint_every=3",
    ]
    return load_config(
        "lapflow-folder",
        [*options, "training.log_every=1", "training.bad_images=0.3", "training.workers=0", *overrides],
    )


def weights(run):
    return load_checkpoint(latest_checkpoint(run / "checkpoints")).tensors["model"]


def met(settings, steps):
    """The bad images among those that the order brings in so many steps."""
    data = build_dataset(settings)
    found = [
        data.name("train", i)
        for i in indices(settings.seed, data.size("train"), 0, steps * settings.training.batch_size)
    ]
    return {name for name in found if name.split("/")[1] in UNREADABLE}


def test_a_run_over_bad_images_is_the_same_with_workers_and_after_a_resume(tmp_path, pictures):
    class StoppedError(Exception):
        pass

    def stop(event):
        if event["event"] == "checkpoint" and event["step"] == 3:
            raise StoppedError

    runs = {
        "whole": config(pictures),
        "workers": config(pictures, "training.workers=2"),
        "cut": config(pictures),
    }
    train(runs["whole"], tmp_path / "whole")
    train(runs["workers"], tmp_path / "workers")
    with pytest.raises(StoppedError):
        train(runs["cut"], tmp_path / "cut", stop)
    assert set(names_in(tmp_path / "cut" / "quarantine.jsonl")) == met(runs["cut"], 3)
    train(runs["cut"], tmp_path / "cut")
    expected = weights(tmp_path / "whole")
    for name in ("workers", "cut"):
        for key, value in weights(tmp_path / name).items():
            assert torch.equal(value, expected[key]), f"{name} {key}"
    for name, settings in runs.items():
        found = names_in(tmp_path / name / "quarantine.jsonl")
        assert len(found) == len(set(found)) == 12
        assert set(found) == met(settings, 6)
        told = [e for e in read_events(tmp_path / name) if e["event"] == "quarantined"]
        assert sorted(n for e in told for n in e["names"]) == sorted(found)
        assert told[-1]["total"] == 12


def test_a_run_over_budget_stops_with_the_names(tmp_path, pictures):
    with pytest.raises(DataError, match="too many images cannot be read") as error:
        train(config(pictures, "training.bad_images=0.1"), tmp_path / "run")
    found = names_in(tmp_path / "run" / "quarantine.jsonl")
    assert 4 < len(found) <= 12
    assert f"{len(found)} of 40: " + ", ".join(found[:3]) in error.value.got
    with pytest.raises(DataError, match="too many"):
        train(config(pictures, "training.bad_images=0"), tmp_path / "strict")
    assert len(names_in(tmp_path / "strict" / "quarantine.jsonl")) >= 1


def test_a_class_without_a_single_good_image(tmp_path, pictures):
    for path in (pictures / "bee").iterdir():
        if not path.is_symlink() and path.is_file():
            path.write_bytes(b"")
    train(config(pictures, "training.bad_images=0.7", steps=5), tmp_path / "run")
    assert listed(tmp_path / "run" / "quarantine.jsonl") == 26


def test_the_report_says_what_was_left_out(tmp_path, pictures):
    run = train(config(pictures), tmp_path / "run")
    metrics = evaluate_run(run, Pipeline.load(run), num=4)
    assert metrics["counts"] == {"samples": 4, "train": GOOD, "test": 0, "unreadable": 12, "replaced": 12}
    told = summary(metrics)
    assert "12 real images cannot be read and are left out" in told
    assert "12 training images could not be read" in told
    report = (run / "report.md").read_text()
    assert "| counts: unreadable | 12 |" in report
    assert "| counts: replaced | 12 |" in report
    clean = evaluate_images(torch.zeros(4, 3, 8, 8), None, build_dataset(config(pictures)))
    assert clean["counts"]["unreadable"] == 12

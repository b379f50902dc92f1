"""train, sample, evaluate, check and flops, as a person calls them."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from lapflow.cli import main
from lapflow.config.building import build
from lapflow.config.loading import load_config

TINY = [
    "model.width=32",
    "model.heads=2",
    "model.depth=1",
    "training.batch_size=16",
    "training.steps=4",
    "training.log_every=2",
]


@pytest.fixture
def call(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    run = tmp_path_factory.mktemp("digits") / "run"
    with pytest.raises(SystemExit) as end:
        main(["train", "lapflow-digits", *TINY, "--out", str(run)])
    assert not end.value.code
    return run


def test_a_dry_run_measures_a_step_and_writes_nothing(call, tmp_path, monkeypatch):
    """The multiply-adds are three times the network's own for 16 images, of which each of two segments has
    8."""
    monkeypatch.chdir(tmp_path)
    code, out, err = call(
        "train", "lapflow-digits", *TINY, "flow.intervals.segment_sampling=balanced", "--dry-run"
    )
    assert code == 0, err
    assert list(tmp_path.iterdir()) == []
    row = dict(re.findall(r"│ ([a-z-]+)[^│]*│ +([^│]*?) +│", out))
    assert float(row["seconds"]) > 0
    assert 100e6 < float(row["peak"].split()[0]) * {"MB": 1e6, "GB": 1e9}[row["peak"].split()[1]] < 100e9
    parts = build(load_config("lapflow-digits", TINY))
    assert row["parameters"] == f"{sum(p.numel() for p in parts.model.parameters()) / 1e6:.2f} M"
    each = [sum(parts.model.multiply_adds(s.scales).values()) for s in parts.flow.segments]
    assert row["multiply-adds"] == f"{3 * 8 * sum(each) / 1e6:.3f} M"
    assert row["images"] == "16"
    assert math.isfinite(float(row["loss"]))


def test_training_writes_a_run_and_one_json_line_per_event(call, tmp_path):
    code, out, _ = call("train", "lapflow-digits", *TINY, "--out", tmp_path / "run")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [e["event"] for e in events] == [
        "start",
        "train",
        "train",
        "checkpoint",
        "done",
        "picture",
        "picture",
    ]
    assert events[0]["attention"] == "SDPA"
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000
    assert min(Image.open(tmp_path / "run" / "bands.png").size) > 100


def test_samples_are_pictures_and_arrays(call, digits, tmp_path):
    code, out, _ = call("sample", digits, "--num", 20, "--seed", 3, "--out", tmp_path)
    assert code == 0
    assert "40 evaluations" in out
    arrays = np.load(tmp_path / "samples.npz")
    assert arrays["arr_0"].shape == (20, 8, 8, 1)
    assert arrays["arr_0"].dtype == np.uint8
    assert arrays["arr_1"].tolist() == [i % 10 for i in range(20)]
    files = sorted((tmp_path / "images").iterdir())
    assert [f.name for f in files][:2] == ["00000-0.png", "00001-1.png"]
    assert np.array_equal(np.asarray(Image.open(files[3])), arrays["arr_0"][3, :, :, 0])
    for picture in ("grid.png", "scales.png"):
        assert min(Image.open(tmp_path / picture).size) > 100


def test_seeds_classes_and_fewer_images(call, digits, tmp_path):
    for name, options in {
        "a": ["--num", 4],
        "b": ["--num", 4],
        "c": ["--num", 2],
        "d": ["--num", 4, "--seed", 9],
    }.items():
        assert (
            call(
                "sample",
                digits,
                "--class",
                7,
                "--class",
                1,
                "--solver",
                "heun",
                "--steps",
                2,
                "--out",
                tmp_path / name,
                *options,
            )[0]
            == 0
        )
    a, b, c, d = (np.load(tmp_path / name / "samples.npz")["arr_0"].astype(int) for name in "abcd")
    assert np.array_equal(a, b)
    assert np.abs(a[:2] - c).max() <= 1, "the same but for rounding, whatever the batch"
    assert np.abs(a - d).max() > 1
    assert np.load(tmp_path / "a" / "samples.npz")["arr_1"].tolist() == [7, 1, 7, 1]


def test_evaluation_writes_metrics_and_report(call, digits):
    code, out, _ = call("evaluate", digits, "--num", 40, "--guidance", 1.5)
    metrics = json.loads((digits / "metrics.json").read_text())
    assert code == 0
    assert metrics["counts"]["samples"] == 40
    assert metrics["made_with"]["guidance"] == "cfg scale=1.5"
    assert metrics["made_with"]["solver"].startswith("heun")
    assert 0 <= metrics["agreement"] <= 1 < metrics["frechet_ratio"]
    assert f"{metrics['frechet_ratio']:.3f}" in out
    assert "frechet ratio" in (digits / "report.md").read_text()


def test_check_prints_the_figures(call):
    code, out, _ = call("check", "lapflow-digits", "sampling.solver={name: euler, steps: 20}")
    assert code == 0
    assert "-6.722 %" in out
    assert "euler steps=80" in out
    assert "WRONG" not in out
    code, out, _ = call("check", "lapflow-digits", "--json")
    report = json.loads(out)
    assert report["oracle"]["evaluations"] == 1600
    assert max(abs(b["std_error"]) for b in report["oracle"]["bands"]) < 1e-6
    assert report["mask"]["mask"] == "causal"


def test_check_shows_an_adaptive_solvers_tolerances(call):
    code, out, _ = call("check", "lapflow-digits", "sampling.solver=dopri5", "--json")
    rungs = json.loads(out)["solver_costs"]
    assert code == 0
    assert [r["rtol"] for r in rungs] == [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    worst = [max(abs(b["std_error"]) for b in r["bands"]) for r in rungs]
    assert worst[-1] < 1e-4 < worst[0]
    assert rungs[0]["evaluations"] < rungs[-1]["evaluations"]


def test_flops_counts_the_papers_networks(call):
    """L/2 single-scale 80.7 G; LapFlow of it .7489 with modulation (.7475 without)."""
    code, out, _ = call("flops", "lapflow-celebahq256", "--json")
    cost = json.loads(out)
    assert code == 0
    assert cost["single_scale"] == pytest.approx(80.7e9, rel=1e-3)
    assert cost["ratio_to_single_scale"] == pytest.approx(0.7489, abs=2e-4)
    assert "0.7489" in call("flops", "lapflow-celebahq256")[1]


def test_images_of_the_users_own(call, tmp_path):
    rng = np.random.default_rng(0)
    for name, form in {
        "cats/1.png": (30, 40, 3),
        "cats/2.JPG": (64, 20, 3),
        "dogs/a.webp": (33, 33, 3),
        "dogs/b.png": (16, 50),
    }.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, form, dtype=np.uint8)).save(path)
    options = [
        *TINY,
        f"data.root={tmp_path / 'photos'}",
        "data.size=16",
        "training.batch_size=4",
        "training.ema_decay=0.9",
    ]
    assert call("train", "lapflow-folder", *options, "--out", tmp_path / "run")[0] == 0
    assert (
        call("sample", tmp_path / "run", "--num", 4, "--class", "dogs", "--steps", 2, "--solver", "euler")[0]
        == 0
    )
    assert np.load(tmp_path / "run" / "samples" / "samples.npz")["arr_0"].shape == (4, 16, 16, 3)
    assert (tmp_path / "run" / "samples" / "images" / "00000-dogs.png").exists()
    assert call("evaluate", tmp_path / "run", "--num", 4, "--solver", "euler", "--steps", 2)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "lapflow-digit"], ["lapflow-digits"]),
        (["train", "lapflow-digits", "model.wdith=3"], ["width"]),
        (["train", "lapflow-digits", "model=mot-dits"], ["mot-dit"]),
        (["train", "lapflow-digits", "flow.intervals.starts=[0.5,0]"], ["first", "0"]),
        (
            ["train", "lapflow-digits", "flow.intervals.starts=[0,0.7,0.5]", "flow.decomposition.levels=3"],
            ["order"],
        ),
        (["train", "lapflow-digits", "flow.intervals.starts=[0,1.5]"], ["range"]),
        (
            [
                "train",
                "lapflow-digits",
                "flow.decomposition.levels=5",
                "flow.intervals.starts=[0,.2,.4,.6,.8]",
            ],
            ["levels <= 4"],
        ),
        (["train", "lapflow-folder", "data.root=nowhere"], ["nowhere"]),
        (["train", "lapflow-folder"], ["root"]),
        (["train", "lapflow-digits", "attention=flash"], ["flash"]),
        (["train", "lapflow-digits", "engine.device=cuda:5"], ["cuda:5"]),
        (["sample", "nowhere"], ["not a run"]),
        (["check", "lapflow-digits", "sampling.solver=eulr"], ["euler"]),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_screen(call, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*arguments)
    assert code == 2
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 12
    for word in words:
        assert word in err, err
    assert not list(tmp_path.iterdir()), "nothing is written before the check"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "11"], "range"),
        (["--solver", "hein"], "heun"),
        (["--weights", "eam"], "ema"),
        (["--solver", "dopri5", "--steps", "3"], "steps"),
    ],
)
def test_mistakes_in_sampling(call, digits, options, words):
    code, _, err = call("sample", digits, "--num", 2, *options)
    assert code == 2
    assert words in err

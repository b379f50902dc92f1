"""lapflow compare: one table of several configs, which goes on where it was stopped."""

import json

import pytest

from lapflow.core.errors import ConfigError
from lapflow.evaluation.compare import Entry
from tests.cli.test_run_commands import call

__all__ = ["call"]

SET = [
    f"--set={v}"
    for v in (
        "training.steps=2",
        "training.batch_size=8",
        "evaluation.samples=12",
        "model.width=16",
        "model.heads=2",
    )
]
LATE = "late: lapflow-k2-digits flow.intervals.starts=[0,0.7]"


def test_a_table_of_systems_and_variants(call, tmp_path):
    code, out, err = call("compare", "lapflow-k1-digits", LATE, *SET, "--seeds", 2, "--out", tmp_path)
    assert code == 0
    rows = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["lapflow-k1-digits", "late"]
    assert all(
        row["seeds"] == 2 and row["evaluations"] == 40 and row["frechet_ratio_std"] >= 0 for row in rows
    )
    # 20 Euler calls a segment: the sum of both segments' costs, which is not 40 times their time-weighted
    # mean at T = .7
    from lapflow.analysis.flops import cost
    from lapflow.config.loading import load_config

    config = load_config(
        "lapflow-k2-digits", ["flow.intervals.starts=[0,0.7]", "model.width=16", "model.heads=2"]
    )
    assert rows[1]["multiply_adds"] == sum(20 * s.total for s in cost(config).segments)
    assert "| late |" in out
    assert "| late |" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.png").stat().st_size > 1000
    assert err.count("seed") == 4
    # again: nothing is trained anew, an entry can be added
    before = (tmp_path / "late" / "seed-1" / "metrics.json").stat().st_mtime_ns
    code, out, err = call(
        "compare", "lapflow-k1-digits", LATE, "lfm-digits", *SET, "--seeds", 2, "--out", tmp_path
    )
    assert code == 0
    assert (tmp_path / "late" / "seed-1" / "metrics.json").stat().st_mtime_ns == before
    assert err.count("seed") == 2


def test_mistakes_are_said_before_any_training(call, tmp_path):
    code, _, err = call("compare", "lfm-digits", "lapflow-k2-digitz", "--out", tmp_path / "runs")
    assert code == 2
    assert "lapflow-k2-digits" in err
    code, _, err = call("compare", "a: lfm-digits", "a: dit-digits", "--out", tmp_path / "runs")
    assert code == 2
    assert "one name" in err
    for change in ("evaluation.metrics=[kid]", "evaluation.against=train"):
        code, _, err = call("compare", "lfm-digits", "--set", change, "--out", tmp_path / "runs")
        assert code == 2
        assert "no Frechet ratio" in err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="names no recipe"):
        Entry.parse("name: ")

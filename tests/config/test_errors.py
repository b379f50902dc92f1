"""Each mistake in a config: what is said, where it stands, what is near."""

from __future__ import annotations

import pytest

from lapflow.config.building import build
from lapflow.config.loading import load_config
from lapflow.core.errors import ConfigError, LapflowError

FILE = [
    "flow:",  # 1
    "  decomposition: {name: laplacian, levels: 2}",
    "  intervals:",  # 3
    "    name: cumulative",
    "    starts: [0.0, 0.5]",  # 5
    "model: {name: mot-dit, depth: 1, width: 8, heads: 2, patch: 2}",
    "data: digits",  # 7
    "training:",
    "  steps: 2",  # 9
]

MISTAKES = [
    (1, "flwo:", ["'flwo'", "'flow'"]),
    (2, "  decompositon: {name: laplacian, levels: 2}", ["'decompositon'", "'decomposition'"]),
    (2, "  decomposition: {name: laplacain, levels: 2}", ["'laplacain'", "'laplacian'"]),
    (2, "  decomposition: {name: laplacian, level: 2}", ["'level'", "'levels'"]),
    (2, "  decomposition: {name: laplacian, levels: 2.5}", ["flow.decomposition.levels", "2.5", "integer"]),
    (
        2,
        "  decomposition: {name: laplacian, levels: 0}",
        ["flow.decomposition.levels", "greater than or equal to 1"],
    ),
    (2, "  decomposition: [laplacian]", ["name", "laplacian"]),
    (4, "    names: cumulative", ["'names'", "starts"]),
    (5, "    starts: [0.0, x]", ["flow.intervals.starts.1", "'x'", "number"]),
    (6, "model: {name: mot-dit, depth: yes}", ["model.depth", "'yes'"]),
    (7, "data: {name: folder}", ["data.root", "folder"]),
    (7, "data: digit", ["'digit'", "'digits'"]),
    (9, "  step: 2", ["'step'", "'steps'"]),
    (9, "  steps: 1e3", ["training.steps", "integer"]),
    (9, "  steps: '2'", ["training.steps", "'2'", "integer"]),
    (9, "  steps: 2\n  steps: 3", ["'steps'", "twice", "line 9"]),
    (9, "  steps: [2", ["not valid YAML"]),
    (9, "  steps: !!python/object/apply:os.getcwd []", ["tag"]),
]


@pytest.mark.parametrize(("line", "text", "words"), MISTAKES, ids=[text.strip() for _, text, _ in MISTAKES])
def test_a_mistake_in_a_file(line, text, words, tmp_path):
    lines = [*FILE]
    lines[line - 1] = text
    file = tmp_path / "config.yaml"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(LapflowError) as error:
        load_config(file)
    shown = str(error.value)
    last = line + text.count("\n")
    if "not valid YAML" in shown:
        last += 1  # YAML sees the missing bracket at the end of the file
    assert f"{file}:{last}" in shown, shown
    assert all(word in shown for word in words), shown


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stepz=3", ["'steps'"]),
        ("flow.interval.starts=[0]", ["'intervals'"]),
        ("flow.intervals.start=[0]", ["'starts'"]),
        ("flow.path=linaer", ["'linear'"]),
        ("flow=linear", ["section", "decomposition"]),
        ("training.steps=many", ["training.steps", "'many'"]),
        ("sampling.weights=emma", ["'ema' or 'raw'"]),
        ("training.optimizer.betas=[0.9]", ["training.optimizer.betas", "2 items"]),
        ("training.steps", ["key=value"]),
        ("a..b=1", ["key=value"]),
        ("seed=[", ["YAML"]),
    ],
)
def test_a_mistake_on_the_command_line(override, words):
    with pytest.raises(ConfigError) as error:
        load_config("lapflow-digits", ["seed=1", override])
    assert error.value.where == f"command line: {override}"
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="'model'") as error:
        load_config({"data": "digits", "training": {"steps": 1}})
    assert "the network" in str(error.value)
    with pytest.raises(ConfigError, match=r"training\.steps"):
        load_config({"model": "mot-dit", "data": "digits", "training": {}})


def test_averaged_weights_need_an_average():
    with pytest.raises(ConfigError, match="averaged"):
        load_config("lapflow-digits", ["training.ema_decay=null"])
    load_config("lapflow-digits", ["training.ema_decay=null", "sampling.weights=raw"])


@pytest.mark.parametrize(
    ("overrides", "where", "words"),
    [
        (
            ["flow.intervals.starts=[0.5,0]"],
            "command line: flow.intervals.starts=[0.5,0] (flow.intervals)",
            ["begin at 0"],
        ),
        (["flow.decomposition.levels=3"], "(flow.intervals)", ["different numbers of scales", "3 scales"]),
        (["model.width=9"], "command line: model.width=9 (model)", ["9"]),
        (["data={name: folder, root: /nowhere/at/all}"], "(data)", []),
    ],
)
def test_what_only_building_can_know_has_a_place_too(overrides, where, words):
    config = load_config("lapflow-digits", overrides)
    with pytest.raises(LapflowError) as error:
        build(config)
    if words:
        assert where in str(error.value), str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "bytes.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="mapping"):
        load_config(tmp_path / "list.yaml")

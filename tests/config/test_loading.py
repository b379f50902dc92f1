"""Loading configs: base, overrides, replacement of components, resolution, differences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lapflow.config.building import build
from lapflow.config.loading import dump_yaml, file_schema, load_config, recipes, resolved
from lapflow.config.schema import Config
from lapflow.core.errors import ConfigError
from lapflow.plugins.kinds import BUILTIN
from lapflow.util.digest import difference

SMALL = {
    "model": {"name": "mot-dit", "depth": 1, "width": 8, "heads": 2, "patch": 2},
    "data": "digits",
    "training": {"steps": 2},
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_bare_name_and_missing_sections_are_resolved():
    config = resolved(load_config(SMALL))
    assert config["data"] == {"name": "digits", "held_out": 0.2}
    assert config["flow"]["decomposition"] == {"name": "laplacian", "levels": 2, "axes": 2}
    assert config["flow"]["intervals"] == {
        "name": "cumulative",
        "starts": [0.0, 0.5],
        "segment_sampling": "batch",
        "weights": None,
    }
    assert next(iter(config["model"])) == "name"


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_loads_and_resolves_round_trip(recipe, tmp_path):
    given = ["data.root=/nowhere", "data.num_classes=2"] if recipe == "lapflow-folder" else []
    config = load_config(recipe, given)
    again = load_config(write(tmp_path / "config.yaml", dump_yaml(config)))
    assert again == config
    assert difference(resolved(config), resolved(again)) == []
    assert load_config(json.loads(json.dumps(resolved(config)))) == config


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_builds_without_memory_or_images(recipe):
    given = ["data.root=/nowhere", "data.num_classes=2"] if recipe == "lapflow-folder" else []
    parts = build(load_config(recipe, given), "meta")
    assert all(p.is_meta for p in parts.model.parameters())
    assert parts.model.condition == parts.conditioner.parts()


def test_overrides_follow_the_same_yaml_rules():
    overrides = [
        "flow.intervals.starts=[0,0.2]",
        "training.learning_rate=1e-5",
        "seed=7",
        "training.grad_clip_norm=null",
        "engine=torch",
    ]
    config = load_config("lapflow-digits", overrides)
    assert config.flow.intervals["starts"] == [0.0, 0.2]
    assert config.training.learning_rate == 1e-5
    assert config.seed == 7


def test_the_same_component_merges_and_another_replaces(tmp_path):
    base = write(
        tmp_path / "base.yaml",
        dump_yaml(load_config({**SMALL, "sampling": {"solver": {"name": "dopri5", "rtol": 1e-3}}})),
    )
    merged = load_config(base, ["sampling.solver.atol=1e-4"]).sampling.solver
    assert (merged["name"], merged["rtol"], merged["atol"]) == ("dopri5", 1e-3, 1e-4)
    for other in (
        ["sampling.solver=heun"],
        ["sampling.solver.name=heun"],
        ["sampling.solver.steps=20", "sampling.solver.name=heun"],
    ):
        assert load_config(base, other).sampling.solver == {"name": "heun", "steps": 20}
    assert load_config(base, ["sampling.solver=dopri5"]).sampling.solver["rtol"] == 1e-5, (
        "a bare name gives the component as it comes"
    )


def test_arguments_without_a_name_are_the_default_component_s():
    assert load_config(SMALL, ["sampling.solver.steps=5"]).sampling.solver == {"name": "euler", "steps": 5}
    assert load_config(SMALL, ["data.held_out=0.1"]).data == {"name": "digits", "held_out": 0.1}


def test_base_is_relative_to_the_file_that_names_it(tmp_path):
    (tmp_path / "low").mkdir()
    write(tmp_path / "low" / "first.yaml", "base: lapflow-digits\ntraining: {steps: 10, log_every: 3}\n")
    write(tmp_path / "low" / "second.yaml", "base: first.yaml\ntraining: {steps: 20}\n")
    top = write(tmp_path / "top.yaml", "base: low/second.yaml\nseed: 5\n")
    config = load_config(top)
    assert (config.training.steps, config.training.log_every, config.seed, config.model["width"]) == (
        20,
        3,
        5,
        64,
    )


def test_bases_in_a_circle_are_refused(tmp_path):
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match="each other") as error:
        load_config(tmp_path / "a.yaml")
    assert "a.yaml" in str(error.value)


def test_an_unknown_recipe_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as error:
        load_config("lapflow-digit")
    assert "'lapflow-digits'" in str(error.value)
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path / "c.yaml", "seed: 1\nbase: lapflow-digit\n"))
    assert error.value.where == f"{tmp_path}/c.yaml:2"


def test_difference_names_what_changed():
    a = resolved(load_config(SMALL))
    b = resolved(load_config(SMALL, ["flow.decomposition=wavelet", "training.steps=3"]))
    lines = difference(a, b)
    assert "training.steps: 2 -> 3" in lines
    assert "flow.decomposition.name: 'laplacian' -> 'wavelet'" in lines
    assert "flow.decomposition.wavelet: (absent) -> 'haar'" in lines
    assert len(lines) == 3


def test_loading_does_not_change_what_it_is_given():
    given = json.loads(json.dumps(SMALL))
    load_config(given, ["model.depth=3", "training.steps=9"])
    assert given == SMALL


def test_the_first_weights_are_a_function_of_the_seed_alone():
    import torch

    state = torch.random.get_rng_state()
    first, again, other = (
        build(load_config(SMALL, [f"seed={seed}"])).model.state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state), "building leaves torch's own generator alone"
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_every_field_is_described():
    def fields(model, at=""):
        for name, field in model.model_fields.items():
            assert field.description, f"{at}{name} has no description"
            if hasattr(field.annotation, "model_fields"):
                fields(field.annotation, f"{at}{name}.")

    fields(Config)


def test_the_schema_holds_every_component_and_its_arguments():
    text = json.dumps(file_schema())
    for found in BUILTIN.values():
        for name in found:
            assert f'"const": "{name}"' in text
    assert "number of scales K" in text
    assert file_schema()["properties"]["base"]["type"] == "string"
    assert "required" in Config.model_json_schema()


def test_a_plugin_that_fails_to_load_is_left_out_of_the_schema(tmp_path, monkeypatch):
    folder = tmp_path / "lapflow_broken-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: lapflow-broken\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[lapflow.solvers]\nbroken-solver = nowhere_at_all:Thing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match="broken-solver"):
        schema = Config.model_json_schema()
    assert '"const": "broken-solver"' not in json.dumps(schema)
    assert load_config(SMALL).sampling.solver["name"] == "euler"


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("flow.view=merged", "flow.representation"),  # first edition
        ("training.label_drop=0.1", "training.condition_dropout"),  # first edition
        ("training.clip=1.0", "training.grad_clip_norm"),  # first edition
    ],
)
def test_a_config_of_the_first_edition_is_refused_with_the_new_names(key, new):
    with pytest.raises(ConfigError, match="first edition") as error:
        load_config("lapflow-digits", [key])
    assert (error.value.got, error.value.expected) == (key.split("=")[0], new)

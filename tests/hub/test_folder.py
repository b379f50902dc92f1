"""Folders: what is written, who loads it, what is refused; exporting runs; publishing, to a folder in the
place of the Hub."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from tests.hub.builders import draw, latent_pipeline, loaded_run, model, pipeline, quiet

pytest.importorskip("diffusers")

from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils

import lapflow
from lapflow.cli import main
from lapflow.core.errors import CheckpointError, ConfigError
from lapflow.hub import LapFlowModel, LapFlowPipeline
from lapflow.hub import pipeline as pipeline_module
from lapflow.hub.pipeline import export_run
from tests.support import GLYPHS, codec_of, small_autoencoder

TINY = [
    "model.width=32",
    "model.heads=2",
    "model.depth=1",
    "training.batch_size=16",
    "training.warmup_steps=0",
    "training.ema_decay=0.5",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What diffusers copies of a folder's code goes here, and not to the user's cache."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(a pipeline, its folder)"""
    pipe, folder = pipeline(), tmp_path_factory.mktemp("saved") / "out"
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    pipe, folder = (
        latent_pipeline(tmp_path_factory.mktemp("autoencoder")),
        tmp_path_factory.mktemp("saved") / "out",
    )
    pipe.save_pretrained(folder)
    return pipe, folder


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on the digits, measured."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    assert (
        call(
            "train",
            "lapflow-digits",
            *TINY,
            "training.steps=20",
            "training.checkpoint_every=10",
            "--out",
            folder,
        )
        == 0
    )
    assert call("evaluate", folder, "--num", 20, "--solver", "euler", "--steps", 2) == 0
    return folder


@pytest.fixture(scope="module")
def latent_run(tmp_path_factory):
    """(a short run in latents, the folder of its autoencoder)"""
    at = tmp_path_factory.mktemp("latent")
    small_autoencoder(at / "autoencoder", image_channels=1)
    config = {
        "base": "lapflow-digits",
        "codec": codec_of(at / "autoencoder"),
        "data": {**GLYPHS, "train": 20},
        "model": {"width": 32, "heads": 2, "depth": 1},
        "training": {"steps": 4, "batch_size": 16, "ema_decay": 0.5},
        "evaluation": {"classifier": None},
    }
    (at / "config.yaml").write_text(yaml.safe_dump(config))
    assert call("train", at / "config.yaml", "--out", at / "run") == 0
    return at / "run", at / "autoencoder"


# ---------------------------------------------------------------- the folder


def test_the_files(digits, latent):
    def files(folder):
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())

    common = [
        "README.md",
        *(
            f"backbone/{name}"
            for name in ("config.json", "diffusion_pytorch_model.safetensors", "lapflow_backbone.py")
        ),
    ]
    assert files(digits[1]) == [*common, "model_index.json", "pipeline.py"]
    assert files(latent[1]) == [
        *common,
        "model_index.json",
        "pipeline.py",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    index = json.loads((latent[1] / "model_index.json").read_text())
    assert index.pop("_diffusers_version")
    assert index == {
        "_class_name": ["pipeline", "LapFlowPipeline"],
        "backbone": ["lapflow_backbone", "LapFlowModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def test_saving_a_loaded_one_gives_the_same_files(latent, tmp_path):
    LapFlowPipeline.from_pretrained(latent[1]).save_pretrained(tmp_path / "again", name=str(latent[1]))
    for path in (p for p in latent[1].rglob("*") if p.is_file()):
        again = (tmp_path / "again" / path.relative_to(latent[1])).read_bytes()
        if path.name == "config.json":  # diffusers adds where it was loaded from
            found, expected = json.loads(again), json.loads(path.read_bytes())
            found.pop("_name_or_path"), expected.pop("_name_or_path", None)
            assert found == expected
        else:
            assert again == path.read_bytes(), path


@pytest.mark.parametrize("form", ["digits", "latent"])
def test_diffusers_own_loader_finds_the_classes(form, request):
    pipe, folder = request.getfixturevalue(form)
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)
    loaded = quiet(DiffusionPipeline.from_pretrained(folder, trust_remote_code=True))
    assert type(loaded) is LapFlowPipeline
    assert torch.equal(draw(loaded, [1, 0]), draw(pipe, [1, 0]))
    named = quiet(
        DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    )
    assert type(named) is LapFlowPipeline


def test_components_may_be_passed_to_both_loaders(latent):
    pipe, folder = latent
    for loaded in (
        LapFlowPipeline.from_pretrained(folder, vae=pipe.vae, backbone=pipe.backbone),
        DiffusionPipeline.from_pretrained(folder, vae=pipe.vae, trust_remote_code=True),
    ):
        assert loaded.vae is pipe.vae
    assert LapFlowPipeline.from_pretrained(folder, vae=None).vae is None


def test_our_loader_runs_no_code_of_the_folder(digits, tmp_path):
    folder = tmp_path / "crafted"
    shutil.copytree(digits[1], folder)
    for file in ("pipeline.py", "backbone/lapflow_backbone.py"):
        (folder / file).write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    loaded = quiet(LapFlowPipeline.from_pretrained(folder))
    assert torch.equal(draw(loaded), draw(digits[0]))
    lapflow.load(folder, device="cpu")
    assert not (tmp_path / "sprung").exists()


def test_loading_says_nothing_of_wrong_types(latent, caplog):
    LapFlowPipeline.from_pretrained(latent[1])
    assert not [r for r in caplog.records if "Expected types" in r.message or "not expected" in r.message]


def test_large_weights_are_in_several_files(digits, tmp_path):
    pipe, folder = digits
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards" / "backbone").glob("*.safetensors"))) > 2
    loaded = quiet(LapFlowPipeline.from_pretrained(tmp_path / "shards"))
    assert torch.equal(draw(loaded), draw(pipe))
    one, several = (lapflow.load(at, device="cpu").sample(2).images for at in (folder, tmp_path / "shards"))
    assert torch.equal(one, several)
    pipe.save_pretrained(tmp_path / "shards")
    assert torch.equal(lapflow.load(tmp_path / "shards", device="cpu").sample(2).images, one), (
        "of an earlier save nothing is read"
    )


def test_it_is_quiet_about_where_it_was(digits, tmp_path):
    LapFlowPipeline.from_pretrained(digits[1]).save_pretrained(tmp_path / "out", name="me/model")
    assert str(digits[1]) not in (tmp_path / "out" / "model_index.json").read_text()
    assert str(digits[1]) not in (tmp_path / "out" / "README.md").read_text()


# ---------------------------------------------------------------- what is refused


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("part", ["backbone", "vae"])
def test_a_pickle_in_place_of_weights_is_not_opened(latent, tmp_path, part):
    folder = tmp_path / "crafted"
    shutil.copytree(latent[1], folder)
    (folder / part / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Trap(tmp_path / "sprung")}, folder / part / "diffusion_pytorch_model.bin")
    with pytest.raises((CheckpointError, OSError), match="safetensors"):
        LapFlowPipeline.from_pretrained(folder)
    if part == "backbone":
        for load in (
            lambda: LapFlowModel.from_pretrained(folder, subfolder="backbone"),
            lambda: DiffusionPipeline.from_pretrained(folder, trust_remote_code=True),
            lambda: lapflow.load(folder, device="cpu"),
        ):
            with pytest.raises(CheckpointError, match="which is a pickle"):
                load()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["safe_serialization", "use_safetensors"])
def test_pickles_cannot_be_asked_for(digits, tmp_path, name):
    pipe, folder = digits
    for part, at in ((pipe, tmp_path / "a"), (pipe.backbone, tmp_path / "b")):
        asked = part.save_pretrained if name == "safe_serialization" else type(part).from_pretrained
        with pytest.raises(ConfigError, match="never as pickles"):
            asked(at if name == "safe_serialization" else folder, **{name: False})
    assert not list(tmp_path.glob("[ab]"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "model_index.json").unlink(), "not an exported pipeline|not a run folder"),
        (lambda f: (f / "model_index.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}'), "DDPMPipeline"),
        (lambda f: (f / "backbone" / "config.json").unlink(), "config.json"),
        (lambda f: (f / "backbone" / "config.json").write_text('{"shape": [1, 8, 8]}'), "class_names"),
        (lambda f: (f / "backbone" / "diffusion_pytorch_model.safetensors").unlink(), "safetensors"),
        (
            lambda f: (f / "backbone" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99),
            "cannot be",
        ),
        (lambda f: change(f, shape=[1]), "not a backbone"),
        (lambda f: change(f, class_names=["only"]), "fit|size mismatch|expected shape"),
        (lambda f: change(f, model={"depth": 2}), "missing|Missing"),
    ],
    ids=[
        "index",
        "torn index",
        "foreign",
        "config",
        "lacking",
        "weights",
        "torn",
        "shape",
        "classes",
        "depth",
    ],
)
def test_a_damaged_folder_is_one_error(digits, tmp_path, spoil, words):
    folder = tmp_path / "damaged"
    shutil.copytree(digits[1], folder)
    spoil(folder)
    for load in (LapFlowPipeline.from_pretrained, lambda at: lapflow.load(at, device="cpu")):
        with pytest.raises(CheckpointError) as error:
            load(folder)
        assert re.search(words, str(error.value)), str(error.value)


def change(folder, model=None, **values):
    path = folder / "backbone" / "config.json"
    said = json.loads(path.read_text())
    said["lapflow"]["model"] |= model or {}
    path.write_text(json.dumps({**said, **values}))


def test_nothing_of_others_is_replaced(digits, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    with pytest.raises(CheckpointError, match="another pipeline"):
        digits[0].save_pretrained(tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["model_index.json"]
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        digits[0].save_pretrained(tmp_path / "file")


def test_what_is_no_folder_is_asked_of_the_hub(monkeypatch, tmp_path):
    """Only data is fetched: no code, no pickles. Here the answer is a folder."""
    pipe = pipeline()
    pipe.save_pretrained(tmp_path / "hub")
    asked = []
    monkeypatch.setattr(
        pipeline_module,
        "snapshot_download",
        lambda repo, **how: asked.append((repo, how)) or str(tmp_path / "hub"),
    )
    loaded = quiet(LapFlowPipeline.from_pretrained("me/model", revision="v1"))
    assert torch.equal(draw(loaded), draw(pipe))
    assert asked == [("me/model", {"allow_patterns": ["*.json", "*.safetensors"], "revision": "v1"})]


def test_a_name_that_is_nowhere_is_one_error(monkeypatch):
    def refuse(repo, **how):
        raise ConnectionError("no network")

    monkeypatch.setattr(pipeline_module, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match="no network"):
        LapFlowPipeline.from_pretrained("me/nowhere")


# ---------------------------------------------------------------- lapflow.load


def test_an_exported_folder_has_one_kind_of_weights(digits):
    _, folder = digits
    assert lapflow.load(folder, weights="ema", device="cpu").step == 7
    with pytest.raises(ConfigError, match="one kind"):
        lapflow.load(folder, weights="raw", device="cpu")
    with pytest.raises(ConfigError, match="no checkpoints"):
        lapflow.load(folder, checkpoint="step-0000007", device="cpu")


def test_the_attention_backend_may_be_another(digits):
    _, folder = digits
    assert lapflow.load(folder, attention="flex", device="cpu").config.attention["name"] == "flex"
    named = LapFlowModel.from_pretrained(folder, subfolder="backbone", attention="sdpa")
    assert named.loaded_run.config.attention["name"] == "sdpa"
    assert named.config.attention is None
    assert LapFlowPipeline.from_pretrained(folder, backbone=named).backbone is named
    with pytest.raises(ConfigError, match="attention='sdpa'"):
        named.set_attention_backend("flash")


def test_without_diffusers_the_folder_gives_the_same_images(run, tmp_path):
    """In a process that cannot import diffusers; bit for bit those of the run."""
    export_run(run, tmp_path / "out")
    script = """
import sys
sys.modules["diffusers"] = None
import lapflow, torch
run, out = (lapflow.load(at, device="cpu") for at in sys.argv[1:])
assert torch.equal(run.sample(4, seed=3).images, out.sample(4, seed=3).images)
assert (out.step, out.weights, out.class_names) == (run.step, run.weights, run.class_names)
try:
    lapflow.LapFlowPipeline
except lapflow.LapflowError as error:
    assert "lapflow[diffusers]" in str(error), error
else:
    raise AssertionError("no error")
from lapflow import *
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, run, tmp_path / "out"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- runs


def test_a_run_becomes_a_pipeline(run):
    pipe = quiet(LapFlowPipeline.from_run(run))
    expected = lapflow.load(run, device="cpu").sample(3, labels=[3, 1, 4], seed=2).images
    from lapflow.util.random import keyed_generator

    found = draw(pipe, generator=[keyed_generator(2, "noise", i) for i in range(3)])
    assert torch.equal(found, (expected / 2 + 0.5).clamp(0, 1))
    assert pipe.loaded_run.step == 20
    raw = quiet(LapFlowPipeline.from_run(run, weights="raw", checkpoint="step-0000010"))
    assert (raw.loaded_run.step, raw.loaded_run.weights) == (10, "raw")
    assert not torch.equal(draw(raw), draw(pipe))


def test_a_run_s_figures_come_along_if_they_are_of_these_weights(run, tmp_path):
    pipe = LapFlowPipeline.from_run(run)
    assert pipe.config.metrics == json.loads((run / "metrics.json").read_text())
    pipe.save_pretrained(tmp_path / "out")
    assert LapFlowPipeline.from_pretrained(tmp_path / "out").config.metrics == pipe.config.metrics
    for other in (
        LapFlowPipeline.from_run(run, weights="raw"),
        LapFlowPipeline.from_run(run, checkpoint="step-0000010"),
    ):
        assert other.config.metrics is None


def test_a_latent_run_is_whole_without_its_autoencoder(latent_run, tmp_path):
    run, autoencoder = latent_run
    expected = lapflow.load(run, device="cpu").sample(2, seed=1).images
    pipe = quiet(LapFlowPipeline.from_run(run))
    export_run(run, tmp_path / "out")
    hidden = autoencoder.rename(autoencoder.with_name("gone"))
    try:
        assert torch.equal(lapflow.load(tmp_path / "out", device="cpu").sample(2, seed=1).images, expected)
        loaded = quiet(LapFlowPipeline.from_pretrained(tmp_path / "out"))
        assert torch.equal(draw(loaded, [0, 1]), draw(pipe, [0, 1]))
    finally:
        hidden.rename(autoencoder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "OUT"], "not a run folder"),
        (["RUN", "RUN"], "in use"),
        (["RUN", "OUT", "--weights", "eam"], "ema or raw"),
        (["RUN", "OUT", "--checkpoint", "step-0000003"], "step-0000003"),
        (["RUN", "OUT", "--license", ""], "one line"),
        (["RUN", "FILE/out"], "written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_mistakes_in_exporting_are_one_screen_and_leave_nothing(run, tmp_path, capsys, arguments, words):
    (tmp_path / "FILE").touch()
    places = {"RUN": str(run), "OUT": str(tmp_path / "out"), "FILE/out": str(tmp_path / "FILE" / "out")}
    assert call("export", *(places.get(a, a) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert {p.name for p in tmp_path.iterdir()} - {"modules"} == {"FILE"}


def test_the_command(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert call("export", run, tmp_path / "out", "--license", "mit", "--name", "me/digits") == 0
    assert "ema weights of step 20" in capsys.readouterr().out
    assert call("sample", tmp_path / "out", "--num", 4, "--out", tmp_path / "samples") == 0
    assert (tmp_path / "samples" / "grid.png").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert 'LapFlowPipeline.from_pretrained("me/digits")' in card
    assert call("export", run, tmp_path / "out") == 2, "not a second time into the same folder"


# ---------------------------------------------------------------- the card


def test_the_card_states_what_is_known(run, tmp_path):
    pipe = LapFlowPipeline.from_run(run, license="cc-by-4.0")
    front, body = re.match(r"---\n(.*?)---\n(.*)", pipe.card("me/digits"), re.S).groups()
    metrics = json.loads((run / "metrics.json").read_text())
    assert yaml.safe_load(front)["library_name"] == "diffusers"
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    assert body.startswith("\n# digits\n")
    for words in (
        "ema, of training step 20",
        "laplacian levels=2",
        "8x8, 1 channel",
        f"{metrics['frechet_ratio']:.4g}",
        "cc-by-4.0",
    ):
        assert words in body
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", body, re.S)[1])
    assert lapflow.load_config(config) == pipe.loaded_run.config


def test_the_card_says_what_is_not_known(digits):
    card = digits[0].card("out")
    assert "license" not in yaml.safe_load(card.split("---")[1])
    assert "Not stated" in card
    assert "Nothing was measured" in card


@pytest.mark.parametrize("names", [("a", "b|c"), ()])
def test_the_card_s_python_runs(tmp_path, names, monkeypatch):
    pipe = LapFlowPipeline(model(loaded_run(names=names)), None)
    pipe.save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", card, re.S):
        space = {}
        exec(block, space)
        assert type(space["pipe"]) is LapFlowPipeline
    assert all(line.count("|") == 3 for line in card.split("## Use")[0].splitlines() if line.startswith("|"))


# ---------------------------------------------------------------- publishing


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in the place of the Hub."""
    calls = []

    class Made:
        repo_id = "me/model"

    def upload(*, repo_id, folder_path, **how):
        shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)
        calls.append(how)
        return f"https://hub/{repo_id}"

    monkeypatch.setattr(
        pipeline_module, "create_repo", lambda repo, **how: calls.append({"repo": repo, **how}) or Made()
    )
    monkeypatch.setattr(pipeline_module, "upload_folder", upload)
    return tmp_path / "hub", calls


def test_pushed_it_is_what_saving_writes(latent, hub):
    pipe, folder = latent
    place, calls = hub
    assert (
        pipe.push_to_hub("me/model", commit_message="first", private=True, token="t")
        == "https://hub/me/model"
    )
    assert calls[0] == {"repo": "me/model", "private": True, "token": "t", "exist_ok": True}
    assert calls[1] == {"token": "t", "commit_message": "first", "create_pr": False}
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    pushed = place / "me" / "model"
    assert {str(p.relative_to(pushed)) for p in pushed.rglob("*") if p.is_file()} == files
    assert 'from_pretrained("me/model")' in (pushed / "README.md").read_text(), (
        "the card is ours, not diffusers' template"
    )
    loaded = quiet(LapFlowPipeline.from_pretrained(pushed))
    assert torch.equal(draw(loaded, [1, 0]), draw(pipe, [1, 0]))


def test_saving_may_push(digits, hub, tmp_path):
    place, calls = hub
    digits[0].save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="me/model")
    assert calls[0]["repo"] == "me/model"
    assert (place / "me" / "model" / "model_index.json").read_bytes() == (
        tmp_path / "model" / "model_index.json"
    ).read_bytes()
    digits[0].save_pretrained(tmp_path / "named", push_to_hub=True)
    assert calls[2]["repo"] == "named"


def test_nothing_is_made_on_the_hub_where_saving_fails(digits, hub):
    with pytest.raises(ConfigError, match="pickles"):
        digits[0].push_to_hub("me/model", safe_serialization=False)
    assert hub[1] == []

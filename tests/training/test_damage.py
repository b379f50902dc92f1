"""Damage to any file of a run is refused by name before anything is made of it, or is harmless and said to be
so."""

import json
import shutil
from itertools import islice

import pytest
import torch

from lapflow.cli import main
from lapflow.config.loading import load_config
from lapflow.core.errors import CheckpointError, LapflowError
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint
from lapflow.training.loop import train
from lapflow.training.run_folder import HASHES, run_config
from tests.training.runs import last, losses

TINY = [
    "model.width=16",
    "model.heads=1",
    "model.depth=1",
    "training.batch_size=8",
    "training.log_every=1",
    "training.steps=2",
]
TENSORS = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")
FILES = (*TENSORS, "state.json", "config.json", "environment.json", "classes.json", "manifest.json")


def flip(data, foreign, at=None):
    at = len(data) // 2 if at is None else at
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    "flipped": flip,
    "truncated": lambda data, foreign: data[: len(data) // 2],
    "emptied": lambda data, foreign: b"",
    "missing": lambda data, foreign: None,
    "foreign": lambda data, foreign: foreign if foreign != data else foreign + b"\n",
}
each_damage = pytest.mark.parametrize("damage", DAMAGES)


def put(file, data):
    file.unlink() if data is None else file.write_bytes(data)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A finished run, and one of another composition on other data, whose files are foreign to it."""
    runs = {
        recipe: tmp_path_factory.mktemp(recipe) / "run" for recipe in ("lapflow-digits", "lapflow-glyphs")
    }
    for recipe, run in runs.items():
        train(
            load_config(recipe, [*TINY, *(["training.batch_size=4"] if recipe == "lapflow-glyphs" else [])]),
            run,
        )
    return runs["lapflow-digits"], runs["lapflow-glyphs"]


@pytest.fixture
def run(originals, tmp_path):
    return shutil.copytree(originals[0], tmp_path / "run")


def damage_file(run, name, damage, foreign_run):
    file = run / name
    put(file, DAMAGES[damage](file.read_bytes(), (foreign_run / name).read_bytes()))


def again(run):
    return train(load_config("lapflow-digits", TINY), run)


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def refused(capsys, run, words, *, by_sampling=True):
    """Training, sampling and evaluation say no on one screen that has one of `words`, and the run is left as
    it is."""
    files = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    uses = [(lambda: again(run))] + [(lambda: Pipeline.load(run))] * by_sampling
    for use in uses:
        with pytest.raises(CheckpointError) as error:
            use()
        assert any(word in str(error.value) for word in words), error.value
    sampling = [(name, run, "--num", 2) for name in ("sample", "evaluate")] * by_sampling
    for arguments in [("train", "lapflow-digits", *TINY, "--out", run), *sampling]:
        code, _, err = command(capsys, *arguments)
        assert code == 2
        assert err.startswith("lapflow: ")
        assert "Traceback" not in err
        assert len(err.splitlines()) <= 12
        assert any(word in err for word in words), err
    assert files == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


@each_damage
@pytest.mark.parametrize("file", FILES)
def test_every_file_of_a_checkpoint(capsys, originals, run, file, damage):
    """The optimizer's state is not read by who only samples; everything else is refused there too."""
    damage_file(run, f"checkpoints/step-0000002/{file}", damage, originals[1])
    words = [file] if file != "manifest.json" else [file, "is not what was saved"]
    refused(capsys, run, words, by_sampling=file != "optimizer.safetensors")
    with pytest.raises(CheckpointError):
        load_checkpoint(latest_checkpoint(run / "checkpoints"))
    if file == "optimizer.safetensors":
        assert Pipeline.load(run).sample(1).images.isfinite().all()


@each_damage
def test_the_config_of_a_run(capsys, originals, run, damage):
    damage_file(run, "config.yaml", damage, originals[1])
    refused(capsys, run, ["config.yaml"])


@pytest.mark.parametrize("damage", ["truncated", "emptied", "missing", "foreign"])
def test_the_environment_of_a_run(capsys, originals, run, damage):
    damage_file(run, "environment.json", damage, originals[1])
    refused(capsys, run, ["environment.json"])


def test_the_hash_of_the_config(capsys, run):
    file = run / "environment.json"
    data = file.read_bytes()
    file.write_bytes(flip(data, None, data.index(json.loads(data)[HASHES][0].encode())))
    refused(capsys, run, ["config.yaml"])


@each_damage
def test_the_log_of_a_run_is_for_people_only(capsys, originals, run, damage):
    weights = last(run).tensors["model"]
    file = run / "log.jsonl"
    data = file.read_bytes()
    put(
        file,
        flip(data, None, 0)
        if damage == "flipped"
        else DAMAGES[damage](data, (originals[1] / "log.jsonl").read_bytes()),
    )
    code, out, _ = command(capsys, "train", "lapflow-digits", *TINY, "--out", run)
    assert code == 0
    assert ("no harm done" in out) == (damage in ("flipped", "truncated"))
    assert all((value == weights[name]).all() for name, value in last(run).tensors["model"].items())
    assert len(losses(run)) <= 3
    assert Pipeline.load(run).step == 2


@each_damage
def test_the_file_latest_is_for_other_programs_only(originals, run, damage):
    damage_file(run, "checkpoints/latest", damage, originals[1])
    assert Pipeline.load(run).step == 2
    again(run)


def flips(data):
    """Every bit of `data` in turn."""
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_every_bit_of_a_manifest(tmp_path):
    path = save_checkpoint(
        tmp_path, 7, Checkpoint({"model": {"w": torch.ones(2)}}, {"state": {"step": 7}}), keep=1
    )
    file = path / "manifest.json"
    for data in flips(file.read_bytes()):
        file.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_every_bit_of_an_environment(run):
    """A version that reads otherwise does no harm; whatever else is lost is noticed, but for the name of the
    hashes."""
    want, file, errors = run_config(run), run / "environment.json", []
    said = json.loads(file.read_bytes())
    for data in islice(flips(file.read_bytes()), None, None, 7):  # all bits in turn, a bit of each byte
        file.write_bytes(data)
        try:
            found = run_config(run)
        except LapflowError as error:
            errors.append(str(error))
        else:
            assert found == want
    assert all("environment.json" in error for error in errors)
    assert len(errors) >= len(said[HASHES][0])


def test_a_folder_of_before_the_hashes_is_read(run):
    file = run / "environment.json"
    file.write_text(
        json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != HASHES})
    )
    again(run)
    assert Pipeline.load(run).step == 2
    (run / "config.yaml").write_text("flow: [")
    with pytest.raises(LapflowError, match=r"config\.yaml"):
        Pipeline.load(run)


def test_a_changed_setting_keeps_the_hash_true(run):
    train(load_config("lapflow-digits", [*TINY, "training.log_every=2"]), run)
    assert run_config(run).training.log_every == 2
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("steps: 2", "steps: 4"))
    with pytest.raises(CheckpointError, match="was changed since") as error:
        again(run)
    assert "new folder" in str(error.value)


def test_a_checkpoint_under_the_number_of_another(run):
    path = latest_checkpoint(run / "checkpoints")
    with pytest.raises(CheckpointError, match="another step"):
        load_checkpoint(path.rename(path.with_name("step-0000007")))

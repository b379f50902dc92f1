"""Nothing is unpickled: a file with a pickle in it, in whatever place, runs nothing and is refused by
name."""

import hashlib
import io
import json
import os
import pickle
import shutil

import pytest
import torch
from PIL import Image

from lapflow.cli import main
from lapflow.config.loading import load_config
from lapflow.core.errors import BackendError, LapflowError
from lapflow.evaluation.compare import Entry, compare
from lapflow.models import AutoencoderKLCodec
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.checkpoint import latest_checkpoint
from lapflow.training.loop import train
from lapflow.training.run_folder import HASHES

TINY = ["model.width=16", "model.heads=1", "model.depth=1", "training.batch_size=8", "training.steps=2"]
CHECKPOINT = [f"{name}.safetensors" for name in ("model", "optimizer", "ema")]
CHECKPOINT += [f"{name}.json" for name in ("state", "config", "environment", "classes")]


class Crafted:
    """Unpickled, it makes the folder `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def as_pickle(marker):
    return pickle.dumps(Crafted(marker))


def as_torch_file(marker):
    buffer = io.BytesIO()
    torch.save({"state_dict": Crafted(marker)}, buffer)
    return buffer.getvalue()


each_form = pytest.mark.parametrize("form", [as_pickle, as_torch_file])


@pytest.fixture
def marker(tmp_path):
    """A folder that must not be there at the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "the pickle was executed"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return train(load_config("lapflow-digits", TINY), tmp_path_factory.mktemp("original") / "run")


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def refused(run, name, *, by_sampling=True):
    uses = [lambda: train(load_config("lapflow-digits", TINY), run)] + [
        lambda: Pipeline.load(run)
    ] * by_sampling
    for use in uses:
        with pytest.raises(LapflowError) as error:
            use()
        assert name in str(error.value), error.value


@each_form
def test_the_pickles_are_live(tmp_path, form):
    torch.load(
        io.BytesIO(form(tmp_path / "live")), weights_only=False
    ) if form is as_torch_file else pickle.loads(form(tmp_path / "live"))
    assert (tmp_path / "live").is_dir()


@each_form
@pytest.mark.parametrize("known", [False, True], ids=["altered", "in-the-manifest"])
@pytest.mark.parametrize("file", CHECKPOINT)
def test_in_a_checkpoint(run, marker, file, known, form):
    """Also where the manifest vouches for it."""
    path = latest_checkpoint(run / "checkpoints")
    (path / file).write_bytes(form(marker))
    if known:
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["sha256"][file] = hashlib.sha256((path / file).read_bytes()).hexdigest()
        (path / "manifest.json").write_text(json.dumps(manifest))
    refused(run, file, by_sampling=file != "optimizer.safetensors")


@each_form
def test_as_a_manifest(run, marker, form):
    (latest_checkpoint(run / "checkpoints") / "manifest.json").write_bytes(form(marker))
    refused(run, "manifest.json")


@each_form
@pytest.mark.parametrize("file", ["config.yaml", "environment.json"])
def test_in_a_run_folder(run, marker, file, form):
    (run / file).write_bytes(form(marker))
    refused(run, file)


@pytest.mark.parametrize("hashed", [False, True], ids=["no-hash", "hashed"])
def test_as_a_tag_of_yaml(run, marker, hashed, capsys):
    """Where environment.json vouches for it, and where an older one has no hash."""
    config, environment = run / "config.yaml", run / "environment.json"
    data = f"model: !!python/object/apply:os.mkdir ['{marker}']\n".encode()
    config.write_bytes(data)
    said = json.loads(environment.read_text())
    del said[HASHES]
    environment.write_text(
        json.dumps(said | ({HASHES: [hashlib.sha256(data).hexdigest()]} if hashed else {}))
    )
    refused(run, "config.yaml")
    with pytest.raises(SystemExit) as end:
        main(["train", str(config), "--out", str(run.parent / "new")])
    assert end.value.code == 2
    assert "config.yaml:1" in capsys.readouterr().err


@each_form
def test_in_the_log(run, marker, form):
    (run / "log.jsonl").write_bytes(form(marker))
    train(load_config("lapflow-digits", TINY), run)
    Pipeline.load(run)


@each_form
def test_as_metrics(tmp_path, marker, form):
    entry = Entry.parse("lapflow-digits")
    folder = train(entry.config(TINY, 0), entry.folder(tmp_path / "compared", 0))
    (folder / "metrics.json").write_bytes(form(marker))
    with pytest.raises(LapflowError, match=r"metrics\.json"):
        compare([entry], tmp_path / "compared", common=TINY, seeds=1)


@each_form
@pytest.mark.parametrize("workers", [0, 1])
def test_as_an_image(tmp_path, marker, workers, form):
    for name in ("cats/0.png", "dogs/0.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "cats" / "1.png").write_bytes(form(marker))
    options = [*TINY, f"data.root={tmp_path / 'photos'}", "data.size=16", f"training.workers={workers}"]
    run = train(load_config("lapflow-folder", options), tmp_path / "run")
    (line,) = (run / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "cats/1.png"
    with pytest.raises(LapflowError, match=r"cats/1\.png"):
        train(load_config("lapflow-folder", [*options, "training.bad_images=0"]), tmp_path / "strict")


@each_form
def test_as_an_autoencoder(tmp_path, marker, form):
    from diffusers import AutoencoderKL

    folder = tmp_path / "autoencoder"
    AutoencoderKL(block_out_channels=[4], norm_num_groups=2).save_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(form(marker))
    with pytest.raises(BackendError, match="autoencoder"):
        AutoencoderKLCodec(str(folder), factor=1).load()

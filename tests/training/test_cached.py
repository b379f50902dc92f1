"""Training on cached latents is training on the images, and what needs the images still gets them."""

import json
import shutil

import pytest
import torch
from PIL import Image

from lapflow.cli import main
from lapflow.config.loading import load_config
from lapflow.core.errors import ConfigError, DataError, ImageError
from lapflow.evaluation.run import evaluate_run
from lapflow.plugins.registry import create
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.checkpoint import latest_checkpoint, load_checkpoint
from lapflow.training.events import read_events
from lapflow.training.loop import train
from tests.support import GLYPHS, cached_glyphs, codec_of, small_autoencoder

TINY = [
    "model={name: mot-dit, depth: 1, width: 32, heads: 2, patch: 2, mask: causal}",
    "training.steps=6",
    "training.batch_size=4",
]
FAST = [
    "training.log_every=1",
    "training.warmup_steps=0",
    "sampling.solver={name: euler, steps: 2}",
    "evaluation.classifier=null",
]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return small_autoencoder(
        tmp_path_factory.mktemp("autoencoder"), image_channels=1, scaling_factor=0.3, shift_factor=0.1
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory, autoencoder):
    return cached_glyphs(tmp_path_factory.mktemp("latents"), autoencoder)


def config(data, codec, *overrides):
    return load_config(
        "lapflow-glyphs", [*TINY, *FAST, f"data={json.dumps(data)}", f"codec={json.dumps(codec)}", *overrides]
    )


def of(cache):
    return {"name": "latents", "path": str(cache)}


@pytest.mark.parametrize("posterior", ["mean", "sample"])
@pytest.mark.parametrize(
    "options", [(), ("training.flip=true", "training.workers=2")], ids=["plain", "flip and workers"]
)
def test_cached_training_is_training_on_the_images_bit_for_bit(
    tmp_path, cache, autoencoder, posterior, options
):
    """The same losses and weights, mirrored images included; draws from the posterior are the samples'
    own."""
    codec = codec_of(autoencoder, posterior=posterior)
    runs = [
        train(config(data, codec, *options), tmp_path / name)
        for name, data in (("images", GLYPHS), ("cached", of(cache)))
    ]
    plain, cached = ([e["loss"] for e in read_events(run) if e["event"] == "train"] for run in runs)
    assert len(plain) == 6
    assert plain == cached
    weights = [load_checkpoint(latest_checkpoint(run / "checkpoints")).tensors["model"] for run in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_an_image_that_cannot_be_read_is_replaced_in_the_cache_as_in_training(
    tmp_path, autoencoder, monkeypatch
):
    """The same substitute, listed by the cache; without a budget encoding stops at it by name."""
    kind = type(create("dataset", GLYPHS))
    read = kind.read

    def broken(self, split, index):
        if (split, index) == ("train", 5):
            raise ImageError("an image cannot be read", got="glyph 5 is torn")
        return read(self, split, index)

    monkeypatch.setattr(kind, "read", broken)
    with pytest.raises(DataError, match="train/5"):
        cached_glyphs(tmp_path / "strict", autoencoder, bad_images=0.0)
    cache = cached_glyphs(tmp_path / "cache", autoencoder, bad_images=0.2)
    (line,) = (cache / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "train/5"
    codec, lenient = codec_of(autoencoder), ("training.bad_images=0.2", "training.steps=8")
    plain, cached = (
        train(config(data, codec, *lenient), tmp_path / name)
        for name, data in (("a", GLYPHS), ("b", of(cache)))
    )
    assert [e["loss"] for e in read_events(plain) if e["event"] == "train"] == [
        e["loss"] for e in read_events(cached) if e["event"] == "train"
    ]
    assert (plain / "quarantine.jsonl").is_file()
    assert not (cached / "quarantine.jsonl").exists()


def test_another_posterior_is_another_run_and_another_scale_too(tmp_path, cache, autoencoder):
    losses = []
    for i, change in enumerate(({}, {"posterior": "sample"}, {"scale": 0.6})):
        run = train(config(of(cache), codec_of(autoencoder, **change)), tmp_path / str(i))
        losses.append(read_events(run)[1]["loss"])
    assert len(set(losses)) == 3


class TestRefusals:
    def test_latents_of_another_codec(self, tmp_path, cache, autoencoder):
        other = small_autoencoder(tmp_path / "other", seed=1, image_channels=1)
        with pytest.raises(ConfigError, match="made by another codec") as error:
            train(config(of(cache), codec_of(other)), tmp_path / "run")
        text = str(error.value)
        assert "weights: " in text
        assert str(autoencoder) in text.split("expected:")[1]
        assert str(other) in text.split("expected:")[0]
        assert not (tmp_path / "run").exists(), "nothing is written before the check"

    def test_latents_for_no_codec(self, tmp_path, cache):
        with pytest.raises(ConfigError, match=r"made by another codec[\s\S]*pixels[\s\S]*AutoencoderKL"):
            train(config(of(cache), {"name": "pixels"}), tmp_path / "run")

    def test_mirrored_images_that_were_not_encoded(self, tmp_path, autoencoder):
        plain = cached_glyphs(tmp_path / "plain", autoencoder, flip=False)
        with pytest.raises(DataError, match="without mirrored"):
            train(config(of(plain), codec_of(autoencoder), "training.flip=true"), tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, autoencoder):
    """A run on the latents of a folder of pictures: (run, cache, pictures)."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        (root / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 60 + i).save(root / "photos" / "ab"[i % 2] / f"{i}.png")
    data = {"name": "folder", "root": str(root / "photos"), "size": 16, "channels": 1}
    overrides = [*TINY, *FAST, f"data={json.dumps(data)}", f"codec={json.dumps(codec_of(autoencoder))}"]
    for arguments in (
        ["encode", "lapflow-glyphs", *overrides, "--out", str(root / "latents"), "--shard-size", "5"],
        [
            "train",
            "lapflow-glyphs",
            *overrides,
            f"data={json.dumps(of(root / 'latents'))}",
            "--out",
            str(root / "run"),
        ],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert not end.value.code
    return root / "run", root / "latents", root / "photos"


class TestWhatNeedsImages:
    def test_the_command_line_trains_on_what_it_encoded(self, pictures):
        run, cache, _ = pictures
        assert (run / "bands.png").stat().st_size > 500
        assert json.loads((cache / "manifest.json").read_text())["counts"] == {"train": 12, "test": 0}

    def test_evaluation_measures_against_the_images(self, pictures):
        run, _, photos = pictures
        pipeline = Pipeline.load(run)
        metrics = evaluate_run(run, pipeline, num=4)
        assert metrics["counts"]["train"] == 12
        photos.rename(photos.with_name("moved"))
        try:
            with pytest.raises(
                DataError, match=r"images that the latents were made of are needed[\s\S]*photos"
            ):
                evaluate_run(run, pipeline, num=4)
        finally:
            photos.with_name("moved").rename(photos)
        shutil.copy(photos / "a" / "0.png", photos / "a" / "new.png")
        with pytest.raises(DataError, match="no longer those"):
            evaluate_run(run, pipeline, num=4)
        (photos / "a" / "new.png").unlink()

    def test_sampling_needs_neither_images_nor_latents(self, pictures):
        run, cache, _ = pictures
        cache.rename(cache.with_name("away"))
        try:
            assert Pipeline.load(run).sample(2).images.shape == (2, 1, 16, 16)
        finally:
            cache.with_name("away").rename(cache)

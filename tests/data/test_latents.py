"""Cached latents: what a cache holds, that it comes out the same however it is made, and what is refused by
name."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time

import pytest
import torch

from lapflow.core.dataset import Dataset
from lapflow.core.errors import DataError
from lapflow.data import Batches, Latents, encoding, latents
from lapflow.data.loader import load_split
from lapflow.plugins import create
from tests.support import GLYPHS, cached_glyphs, codec_of, encoder, small_autoencoder

SHARDS = [
    "test-00000.safetensors",
    "train-00000.safetensors",
    "train-00001.safetensors",
    "train-00002.safetensors",
]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return small_autoencoder(tmp_path_factory.mktemp("autoencoder"), image_channels=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, autoencoder):
    return cached_glyphs(tmp_path_factory.mktemp("latents"), autoencoder)


@pytest.fixture
def cache(tmp_path, whole):
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "latents")


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


class TestWhatACacheHolds:
    def test_moments_of_every_image_and_of_its_mirror(self, whole, autoencoder):
        data, images, codec = (
            Latents(path=whole),
            create("dataset", GLYPHS),
            create("codec", codec_of(autoencoder)),
        )
        assert (data.shape, data.sample_shape, data.class_names) == (
            images.shape,
            (4, 8, 8),
            images.class_names,
        )
        for split, count in (("train", 10), ("test", 3)):
            assert data.size(split) == count
            for i in range(count):
                sample = images.read(split, i)
                image, label = sample.value, sample.annotations.get("label", 0)
                for read, variant in ((data.read, image), (data.read_mirrored, image.flip(-1))):
                    found = read(split, i)
                    assert torch.equal(found.value, codec.posterior(variant[None])[0])
                    assert found.annotations == {"label": label}

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_is_widened(self, tmp_path, whole, autoencoder, dtype):
        half = Latents(path=cached_glyphs(tmp_path / "half", autoencoder, dtype=dtype)).read("train", 0).value
        full = Latents(path=whole).read("train", 0).value
        assert half.dtype == torch.float32
        assert torch.equal(half, full.to(getattr(torch, dtype)).float())
        assert not torch.equal(half, full)

    def test_the_manifest_says_how_it_was_made(self, whole, autoencoder):
        held = manifest(whole)
        assert held["codec"] == create("codec", codec_of(autoencoder)).identity()
        assert (held["images"], held["made_by"]["path"], held["affine"]) == (
            GLYPHS,
            str(autoencoder),
            [0.0, 0.18215],
        )
        assert (held["dtype"], held["flip"], held["counts"]) == ("float32", True, {"train": 10, "test": 3})
        assert sorted(held["sha256"]) == SHARDS

    def test_batches_are_the_same_whoever_reads(self, whole, monkeypatch):
        def take(**options):
            batches = Batches(Latents(path=whole), "train", seed=1, batch_size=4, flip=True, **options)
            return [batch.images for batch, _ in zip(batches, range(6), strict=False)]

        kept, ahead = take(), take(workers=2)
        monkeypatch.setattr("lapflow.data.loader.CACHE_BYTES", 0)
        anew = take()
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(kept, ahead, anew, strict=True))
        assert load_split(Latents(path=whole), "test")[0].shape == (3, 4, 8, 8)

    def test_a_shard_is_verified_once(self, whole, monkeypatch):
        hashed = []
        monkeypatch.setattr(
            latents,
            "file_sha256",
            lambda path: hashed.append(path.name) or manifest(whole)["sha256"][path.name],
        )
        data = Latents(path=whole)
        assert (data.shape, data.num_classes, data.size("train")) == ((1, 16, 16), 62, 10)
        assert hashed == [], "nothing is opened for shape and size"
        for i in (9, 0, 1, 9, 8):
            data.read("train", i)
        assert hashed == ["train-00002.safetensors", "train-00000.safetensors"]
        again = pickle.loads(pickle.dumps(data))
        assert torch.equal(again.read("train", 0).value, data.read("train", 0).value)


class TestMaking:
    def test_a_repeated_command_changes_nothing(self, cache, autoencoder):
        before = {p.name: p.stat().st_mtime_ns for p in cache.glob("*.safetensors")}
        done = []
        assert encoder(cache, autoencoder, progress=done.append).run() == []
        assert before == {p.name: p.stat().st_mtime_ns for p in cache.glob("*.safetensors")}
        assert sum(done) == 13

    @pytest.mark.parametrize("options", [{"workers": 2}, {"batch_size": 1}, {"batch_size": 50}], ids=str)
    def test_it_comes_out_the_same_however_it_is_read(self, tmp_path, whole, autoencoder, options):
        encoder(tmp_path / "other", autoencoder, **options).run()
        assert files(tmp_path / "other") == files(whole)

    def test_a_killed_process_is_taken_up(self, tmp_path, whole, autoencoder):
        out = tmp_path / "cut"
        process = multiprocessing.get_context("spawn").Process(
            target=_encode_and_stall, args=(out, autoencoder)
        )
        process.start()
        deadline = time.time() + 120
        while not (out / "stalled").exists() and time.time() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        (out / "stalled").unlink()
        left = [p.name for p in out.iterdir()]
        assert any(name.startswith(".writing-train-00001.safetensors-") for name in left), (
            "killed with half a shard aside"
        )
        assert "manifest.json" not in left
        with pytest.raises(DataError, match="not whole"):
            Latents(path=out).size("train")
        encoder(out, autoencoder).run()
        assert files(out) == files(whole)

    def test_processes_share_the_work(self, tmp_path, whole, autoencoder):
        out = tmp_path / "shared"
        assert encoder(out, autoencoder, rank=1, world_size=2).run() == [
            "train-00000.safetensors",
            "train-00002.safetensors",
        ]
        assert not (out / "manifest.json").exists()
        assert encoder(out, autoencoder, rank=0, world_size=2).run() == []
        assert files(out) == files(whole)

    @pytest.mark.parametrize("world_size", [1, 2])
    def test_processes_at_the_same_time(self, tmp_path, whole, autoencoder, world_size):
        """With a share each, and both on all of it."""
        context = multiprocessing.get_context("spawn")
        places = [(tmp_path / "shared", autoencoder, rank % world_size, world_size) for rank in range(2)]
        processes = [context.Process(target=_encode, args=place) for place in places]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [p.exitcode for p in processes] == [0, 0]
        assert files(tmp_path / "shared") == files(whole)

    @pytest.mark.parametrize("harm", ["flip", "truncate", "foreign", "pickle"])
    def test_a_damaged_shard_is_made_anew(self, cache, whole, autoencoder, harm, tmp_path):
        spoil(cache, "train-00001.safetensors", harm, tmp_path)
        encoder(cache, autoencoder).run()
        assert files(cache) == files(whole)
        assert not (tmp_path / "sprung").exists()

    def test_another_process_s_damaged_shard_is_named(self, cache, autoencoder):
        spoil(cache, "train-00001.safetensors", "flip")
        with pytest.raises(DataError, match=r"train-00001\.safetensors is not a whole shard"):
            encoder(cache, autoencoder, rank=0, world_size=2).run()

    def test_an_unread_image_leaves_what_is_whole(self, tmp_path, whole, autoencoder, monkeypatch):
        cls = type(create("dataset", GLYPHS))
        read = cls.read

        def broken(self, split, index):
            if (split, index) == ("train", 5):
                raise DataError("an image cannot be read", where="glyph 5")
            return read(self, split, index)

        monkeypatch.setattr(cls, "read", broken)
        with pytest.raises(DataError, match="glyph 5"):
            encoder(tmp_path / "cut", autoencoder).run()
        monkeypatch.undo()
        assert sorted(files(tmp_path / "cut")) == ["encoding.json", "train-00000.safetensors"]
        encoder(tmp_path / "cut", autoencoder).run()
        assert files(tmp_path / "cut") == files(whole)


class TestRefusals:
    @pytest.mark.parametrize("harm", ["flip", "truncate", "foreign", "pickle", "remove"])
    def test_a_shard_that_is_not_what_was_saved(self, cache, harm, tmp_path):
        spoil(cache, "train-00001.safetensors", harm, tmp_path)
        data = Latents(path=cache)
        with pytest.raises(DataError, match=r"train-00001\.safetensors"):
            data.read("train", 4)
        if harm != "remove":  # a shard that is missing is missed before any is read
            data.read("train", 0)
        assert not (tmp_path / "sprung").exists()

    def test_a_worker_names_it_too(self, cache):
        spoil(cache, "train-00001.safetensors", "flip")
        with pytest.raises(
            DataError, match=r"train-00001\.safetensors in the latents in .* is not what was saved"
        ):
            list(
                zip(
                    Batches(Latents(path=cache), "train", seed=0, batch_size=5, workers=2),
                    range(4),
                    strict=False,
                )
            )

    def test_a_pickle_with_its_own_hash_in_the_manifest_is_not_opened(self, cache, tmp_path):
        name = "train-00000.safetensors"
        spoil(cache, name, "pickle", tmp_path)
        held = manifest(cache)
        held["sha256"][name] = latents.file_sha256(cache / name)
        (cache / "manifest.json").write_text(json.dumps(held))
        with pytest.raises(DataError, match=r"train-00000\.safetensors cannot be read"):
            Latents(path=cache).read("train", 0)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("harm", ["truncate", "pickle"])
    @pytest.mark.parametrize("name", ["manifest.json", "encoding.json"])
    def test_altered_settings(self, cache, autoencoder, name, harm, tmp_path):
        spoil(cache, name, harm, tmp_path)
        with pytest.raises(DataError, match=f"{name} is not that of a cache"):
            Latents(path=cache).size("train") if name == "manifest.json" else encoder(
                cache, autoencoder
            ).run()
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        "change",
        [
            {"format": "other"},
            {"shard_size": 5},
            {"moments": [4]},
            {"moments": [4, 8, 0]},
            {"sha256": {"../../etc/passwd": ""}},
            {"more": 1},
        ],
        ids=str,
    )
    def test_a_manifest_that_does_not_fit_itself(self, cache, change):
        (cache / "manifest.json").write_text(json.dumps({**manifest(cache), **change}))
        with pytest.raises(DataError, match=r"manifest\.json"):
            Latents(path=cache).size("train")

    def test_no_cache(self, tmp_path):
        with pytest.raises(DataError, match="holds no latents"):
            Latents(path=tmp_path).shape  # noqa: B018

    def test_an_image_that_is_not_there(self, whole):
        with pytest.raises(DataError, match="no image 10"):
            Latents(path=whole).read("train", 10)

    def test_mirrored_variants_that_were_not_made(self, tmp_path, autoencoder):
        plain = Latents(path=cached_glyphs(tmp_path / "plain", autoencoder, flip=False))
        for use in (plain.require_mirrored, lambda: plain.read_mirrored("train", 0)):
            with pytest.raises(DataError, match=r"without mirrored[\s\S]*training.flip=false"):
                use()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"settings": {"dtype": "float16", "flip": False}},
                "dtype: 'float32' -> 'float16'; flip: True -> False",
            ),
            ({"images": {**GLYPHS, "seed": 3}}, r"images\.seed: \(absent\) -> 3"),
            ({"images": {**GLYPHS, "train": 11}}, r"counts\.train: 10 -> 11"),
        ],
        ids=["settings", "other images", "more images"],
    )
    def test_a_folder_of_other_settings_says_what_differs(self, cache, autoencoder, change, message):
        with pytest.raises(DataError, match=message):
            encoder(cache, autoencoder, **change).run()

    def test_a_folder_of_another_codec(self, cache, tmp_path):
        other = small_autoencoder(tmp_path / "other", seed=1, image_channels=1)
        with pytest.raises(DataError, match=r"codec\.weights"):
            encoder(cache, other).run()

    def test_somebody_s_folder(self, tmp_path, autoencoder):
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(DataError, match=r"in use[\s\S]*thesis\.txt"):
            encoder(tmp_path, autoencoder).run()
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]

    def test_a_full_disk(self, tmp_path, whole, autoencoder, monkeypatch):
        out, replace = tmp_path / "full", encoding.replace_file

        def full(path, data):
            if path.name == "train-00001.safetensors":
                raise OSError(28, "No space left on device", str(path))
            return replace(path, data)

        monkeypatch.setattr(encoding, "replace_file", full)
        with pytest.raises(
            DataError, match=r"train-00001\.safetensors could not be written: No space left"
        ) as error:
            encoder(out, autoencoder).run()
        assert "repeat the command" in str(error.value)
        monkeypatch.undo()
        encoder(out, autoencoder).run()
        assert files(out) == files(whole)

    def test_latents_of_latents_and_nothing_at_all(self, whole, tmp_path, autoencoder):
        with pytest.raises(DataError, match="latents already"):
            encoder(tmp_path / "a", autoencoder, images={"name": "latents", "path": str(whole)})
        with pytest.raises(DataError, match="no image to encode"):
            encoding.plan(
                Empty(), create("codec", "pixels"), images={}, made_by={}, device=torch.device("cpu")
            )

    def test_numbers_that_the_dtype_cannot_hold(self, tmp_path, autoencoder, monkeypatch):
        work = encoder(tmp_path / "out", autoencoder, settings={"dtype": "float16"})
        moments, huge = work.codec.posterior, torch.tensor([1, 1e9, 1])[:, None, None, None]
        monkeypatch.setattr(work.codec, "posterior", lambda images: moments(images) * huge)
        with pytest.raises(DataError, match="image 1 of the train split are not finite in float16"):
            work.run()


class Empty(Dataset):
    """Nothing."""

    shape, class_names = (1, 8, 8), ()

    def size(self, split):
        return 0

    def read(self, split, index):
        raise AssertionError


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def spoil(folder, name, harm, traps=None):
    path = folder / name
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[-9] ^= 4
    elif harm == "truncate":
        del data[len(data) // 2 :]
    elif harm == "foreign":
        data = (folder / "train-00000.safetensors").read_bytes()
    elif harm == "pickle":
        data = pickle.dumps(Trap(traps / "sprung"))
    path.write_bytes(data)
    if harm == "remove":
        path.unlink()


def _encode(out, autoencoder, rank, world_size):
    torch.set_num_threads(1)
    encoder(out, autoencoder, rank=rank, world_size=world_size).run()


def _encode_and_stall(out, autoencoder):
    """Stops for good in the middle of writing the second shard."""
    torch.set_num_threads(1)
    sync = os.fsync

    def stall(handle):
        if "train-00001" in os.readlink(f"/proc/self/fd/{handle}"):
            (out / "stalled").touch()
            time.sleep(600)
        sync(handle)

    os.fsync = stall
    encoder(out, autoencoder).run()


def test_captions_are_kept_with_the_moments(tmp_path):
    """Each scene's own, from one shard or another; a scene that has no mirror image is not mirrored."""
    named = {"name": "captioned-digits", "train": 5, "test": 1}
    with pytest.raises(DataError, match="mirror"):
        encoder(tmp_path / "latents", tmp_path / "autoencoder", images=named)
    assert (
        encoder(tmp_path / "latents", tmp_path / "autoencoder", images=named, settings={"flip": False}).run()
        == []
    )
    data, scenes = Latents(path=str(tmp_path / "latents")), create("dataset", named)
    for split, count in (("train", 5), ("test", 1)):
        for i in range(count):
            assert data.read(split, i).annotations == scenes.read(split, i).annotations

"""`lapflow encode` as a person, or torchrun, calls it. What a cache holds and refuses is tested in
tests/data/test_latents.py."""

import json

import pytest

from lapflow.cli import main

FEW = ["lapflow-glyphs", "data={name: glyphs, size: 16, train: 10, test: 3}"]


@pytest.fixture
def call(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def test_it_counts_images_and_says_where_they_are(call, tmp_path):
    code, out, _ = call("encode", *FEW, "--out", tmp_path, "--batch-size", 6, "--dtype", "float16")
    *events, last = out.splitlines()
    assert code == 0
    assert [json.loads(e)["done"] for e in events] == [6, 10, 13]
    assert last == f"13 images -> {tmp_path}/manifest.json"
    held = json.loads((tmp_path / "manifest.json").read_text())
    assert (held["dtype"], held["flip"], held["shard_size"]) == ("float16", False, 1024)


def test_mirrored_images_follow_the_config_unless_told(call, tmp_path):
    mirrored = "training.flip=true"
    for name, options, flip in (
        ("a", [mirrored], True),
        ("b", [mirrored, "--no-flip"], False),
        ("c", ["--flip"], True),
    ):
        assert call("encode", *FEW, *options, "--out", tmp_path / name)[0] == 0
        assert json.loads((tmp_path / name / "manifest.json").read_text())["flip"] is flip


def test_each_process_of_torchrun_makes_its_share(call, tmp_path, monkeypatch):
    assert call("encode", *FEW, "--shard-size", 3, "--out", tmp_path / "one")[0] == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        code, out, _ = call("encode", *FEW, "--shard-size", 3, "--out", tmp_path / "two")
        assert code == 0
        told.append(out.splitlines())
    assert told[0] == [
        "process 1 of 2 is done; 3 shards are still to come from the others, train-00000.safetensors first"
    ]
    assert told[1][-1].startswith("13 images")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_mistakes_are_one_screen(call, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    for arguments, message in (
        ((*FEW, "--out", tmp_path), "in use"),
        (("lapflow-folder", "data.root=nowhere", "--out", tmp_path / "a"), "nowhere"),
        (
            (*FEW, "codec={name: autoencoder-kl, path: nowhere/at-all, factor: 5}", "--out", tmp_path / "a"),
            "multiples of 5",
        ),
    ):
        code, _, err = call("encode", *arguments)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) <= 6
    assert not (tmp_path / "a").exists()

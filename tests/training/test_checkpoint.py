"""Checkpoints are whole or absent, and what was altered is refused by name."""

import json
import os

import pytest
import torch

from lapflow.core.errors import CheckpointError
from lapflow.training import checkpoint as module
from lapflow.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint


def make(step=1):
    return Checkpoint(
        {"model": {"w": torch.arange(6.0) + step}, "ema": {"w": torch.ones(2, dtype=torch.bfloat16)}},
        {"state": {"step": step}},
    )


def test_round_trip(tmp_path):
    path = save_checkpoint(tmp_path, 7, make(7), keep=2)
    back = load_checkpoint(path)
    assert torch.equal(back.tensors["model"]["w"], torch.arange(6.0) + 7)
    assert back.tensors["ema"]["w"].dtype == torch.bfloat16
    assert back.documents["state"] == {"step": 7}
    assert (tmp_path / "latest").read_text() == path.name
    assert set(load_checkpoint(path, only=("ema",)).tensors) == {"ema"}


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 300):
        save_checkpoint(tmp_path, step, make(step), keep=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-0000010", "step-0000300"]
    assert latest_checkpoint(tmp_path).name == "step-0000300"


def test_saving_a_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 1, make(1), keep=2)
    path = save_checkpoint(tmp_path, 1, make(5), keep=2)
    assert load_checkpoint(path).documents["state"] == {"step": 5}
    assert not list(tmp_path.glob(".writing*"))


def test_a_checkpoint_set_aside_for_another_of_its_step_counts_until_that_stands(tmp_path):
    """What a kill between the two renames leaves: the old one whole, and the new one unfinished."""
    save_checkpoint(tmp_path, 1, make(1), keep=2)
    save_checkpoint(tmp_path, 2, make(2), keep=2).rename(tmp_path / "replaced-step-0000002")
    (tmp_path / ".writing-step-0000002-1").mkdir()
    assert load_checkpoint(latest_checkpoint(tmp_path)).documents["state"] == {"step": 2}
    path = save_checkpoint(tmp_path, 2, make(5), keep=2)
    assert latest_checkpoint(tmp_path) == path
    assert load_checkpoint(path).documents["state"] == {"step": 5}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-0000001", "step-0000002"]


def test_a_save_that_failed_after_its_rename_is_repeated(tmp_path, monkeypatch):
    """A full disk may refuse the file `latest`; training then saves the step again, over the directory
    that stands."""
    plain, tries = module.replace_file, []

    def refuse_twice(*args):
        tries.append(args)
        if len(tries) <= 2:
            raise OSError(28, "No space left on device")
        plain(*args)

    monkeypatch.setattr(module, "replace_file", refuse_twice)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="No space left"):
            save_checkpoint(tmp_path, 1, make(1), keep=2)
    save_checkpoint(tmp_path, 1, make(1), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-0000001"]


@pytest.mark.parametrize("point", ["fsync", "rename", "replace"])
def test_an_error_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch, point):
    save_checkpoint(tmp_path, 1, make(1), keep=2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path) if point == "rename" else os, point, full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path, 2, make(2), keep=2)
    monkeypatch.undo()
    newest = load_checkpoint(latest_checkpoint(tmp_path))
    assert newest.documents["state"]["step"] in ((1,) if point != "replace" else (1, 2))


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_altered_files_are_refused_by_name(tmp_path, file, damage):
    path = save_checkpoint(tmp_path, 1, make(), keep=2)
    data = bytearray((path / file).read_bytes())
    if damage == "remove":
        (path / file).unlink()
    elif damage == "truncate":
        (path / file).write_bytes(data[:-3])
    else:
        data[-2] ^= 1
        (path / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=file):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "manifest",
    [
        b"\x80\x04not json",
        b"[]",
        json.dumps({"format": "other"}).encode(),
        json.dumps({"format": module.FORMAT, "sha256": {"../x.json": "0"}}).encode(),
    ],
)
def test_foreign_directories_are_refused(tmp_path, manifest):
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(CheckpointError, match=r"checkpoint|manifest"):
        load_checkpoint(tmp_path)


def test_an_unfinished_directory_is_never_the_latest(tmp_path):
    save_checkpoint(tmp_path, 1, make(), keep=3)
    (tmp_path / ".writing-step-0000008-1").mkdir()
    assert latest_checkpoint(tmp_path).name == "step-0000001"


def test_a_checkpoint_that_lost_its_manifest_is_refused_and_not_passed_over(tmp_path):
    """Only whole directories get the name, so one without has been damaged: training from the one before
    would hide it."""
    save_checkpoint(tmp_path, 1, make(), keep=3)
    (save_checkpoint(tmp_path, 2, make(), keep=3) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="not a whole checkpoint") as error:
        load_checkpoint(latest_checkpoint(tmp_path))
    assert "step-0000002" in str(error.value)
    assert "restore" in str(error.value)

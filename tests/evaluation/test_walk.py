"""Walks: what is saved is taken up, whatever is damaged or counted twice is not; files that are whole or not
there."""

import zipfile

import numpy as np
import pytest
import torch

from lapflow.core.errors import CheckpointError, DataError
from lapflow.evaluation.archive import Archive
from lapflow.evaluation.run import processes
from lapflow.evaluation.tally import Tally
from lapflow.evaluation.walk import PARTS, Bench
from tests.support import images

COUNT, SIZE = 23, 4


def data():
    return images(COUNT, 3)


def walk_on(out, stop=None, settings="same", save_every=0.0):
    """Walks over `data`, as far as block `stop`; (the walk, its tally or None, the blocks it did)."""
    bench = Bench(out, processes("cpu"), save_every)
    walk = bench.walk("test", {"of": settings}, COUNT, SIZE)
    walk.begin()
    did = []
    for block, rows in walk:
        if block == stop:
            bench.close()
            return walk, None, did
        walk.add(block, data()[rows.start : rows.stop], {"index": torch.arange(rows.start, rows.stop)})
        did.append(block)
    tally = walk.finish()
    bench.close()
    return walk, tally, did


def same(tally, other):
    assert tally.blocks == other.blocks
    assert torch.equal(tally.column("index"), torch.arange(COUNT))
    assert tally.statistics.count == COUNT
    assert torch.equal(tally.statistics.mean, other.statistics.mean)
    assert torch.equal(tally.statistics.scatter, other.statistics.scatter)


@pytest.fixture
def whole(tmp_path_factory):
    return walk_on(tmp_path_factory.mktemp("whole"))[1]


def test_one_goes_on_bit_for_bit(tmp_path, whole):
    assert walk_on(tmp_path, stop=2)[2] == [0, 1]
    assert walk_on(tmp_path, stop=3)[2] == [2]
    walk, tally, did = walk_on(tmp_path)
    assert did == [3, 4, 5]
    assert (walk.done, walk.mine) == (12, COUNT)
    same(tally, whole)
    assert np.cov(data().numpy().T) == pytest.approx(tally.statistics.covariance.numpy(), rel=1e-12)


def test_a_walk_of_other_settings_is_another(tmp_path):
    walk_on(tmp_path, stop=4)
    assert walk_on(tmp_path, stop=1, settings="other")[2] == [0]
    assert len(list(tmp_path.glob(f"evaluation/*/{PARTS}"))) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_part_is_made_anew(tmp_path, whole, damage):
    walk_on(tmp_path, stop=3)
    (part,) = tmp_path.glob(f"evaluation/*/{PARTS}")
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    wrong = {"cut": bytes(content[:-9]), "flipped": bytes(content), "empty": b"", "foreign": b"mine"}[damage]
    part.write_bytes(wrong)
    _, tally, did = walk_on(tmp_path)
    assert did == [0, 1, 2, 3, 4, 5]
    same(tally, whole)


def test_parts_of_several_are_taken_up_by_one(tmp_path):
    """Parts of two processes; and one that was merged into another by a process killed before it removed
    it."""
    walk, _, _ = walk_on(tmp_path, stop=0)
    walk.folder.mkdir(parents=True)

    def part(number, *blocks):
        tally = Tally()
        for block in blocks:
            rows = walk.rows(block)
            tally.add(block, data()[rows.start : rows.stop], {"index": torch.arange(rows.start, rows.stop)})
        tally.write(walk.folder / f"part-{number:05d}.safetensors", walk.key)

    part(0, 0, 2, 4)
    part(1, 1, 3)
    part(2, 1)
    _, tally, did = walk_on(tmp_path, stop=5)
    assert did == []
    assert [p.name for p in walk.folder.iterdir()] == ["part-00000.safetensors"]
    _, tally, did = walk_on(tmp_path)
    assert did == [5]
    assert torch.equal(tally.column("index"), torch.arange(COUNT))
    assert tally.statistics.covariance.numpy() == pytest.approx(np.cov(data().numpy().T), rel=1e-12)


def test_nothing_is_saved_before_its_time(tmp_path):
    walk_on(tmp_path, save_every=60.0)
    assert not (tmp_path / "evaluation").exists()


def test_a_second_one_is_refused(tmp_path):
    bench = Bench(tmp_path, processes("cpu"), 60)
    with pytest.raises(CheckpointError, match="another evaluation writes"):
        Bench(tmp_path, processes("cpu"), 60)
    bench.close()
    Bench(tmp_path, processes("cpu"), 60).close()


def test_a_disk_that_refuses(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lapflow.evaluation.tally.replace_file", full)
    with pytest.raises(DataError, match=r"cannot be written: No space[\s\S]*goes on where it was"):
        walk_on(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        Bench(tmp_path / "file" / "below", processes("cpu"), 60)


class TestArchive:
    def pixels(self):
        return np.random.default_rng(0).integers(0, 256, (5, 3, 4, 2), dtype=np.uint8)

    def test_in_any_order_whole(self, tmp_path):
        """Two writers on one file of pixels; the .npz is numpy's own."""
        first, second = (Archive(tmp_path / "s.npz", tmp_path / "work", 5, (3, 4, 2)) for _ in range(2))
        assert first.prepare() is False
        assert second.prepare() is True
        second.put(3, self.pixels()[3:])
        first.put(0, self.pixels()[:3])
        first.flush()
        second.flush()
        assert not (tmp_path / "s.npz").exists()
        first.pack(np.arange(5))
        with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
            assert set(arrays) == {"arr_0", "arr_1"}
            assert np.array_equal(arrays["arr_0"], self.pixels())
            assert arrays["arr_1"].tolist() == [0, 1, 2, 3, 4]
        assert zipfile.ZipFile(tmp_path / "s.npz").testzip() is None

    def test_an_error_leaves_the_old_file(self, tmp_path, monkeypatch):
        (tmp_path / "s.npz").write_bytes(b"old")
        archive = Archive(tmp_path / "s.npz", tmp_path / "work", 5, (3, 4, 2))
        archive.prepare()
        archive.put(0, self.pixels())

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("shutil.copyfileobj", full)
        with pytest.raises(DataError, match="No space"):
            archive.pack(np.arange(5))
        assert (tmp_path / "s.npz").read_bytes() == b"old"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["s.npz", "work"]

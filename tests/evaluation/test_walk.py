"""Walks: finished blocks are taken up, whatever is damaged is made anew; files that are whole or absent."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lapflow.core.errors import CheckpointError, DataError
from lapflow.evaluation.real import FEATURES, ROWS, measured
from lapflow.evaluation.report import write_archive
from lapflow.evaluation.resumable import BLOCKS, Workspace
from lapflow.evaluation.run import processes
from tests.support import images

COUNT, SIZE = 23, 4


def data():
    return images(COUNT, 3)


class KillError(Exception):
    """Stands for a kill."""


def walk_on(out, stop=None, settings="same", engine=None, counted=None):
    """Walks over `data`, as far as block `stop`; (the walk or None, the blocks it did)."""
    workspace, did = Workspace(out, engine or processes("cpu")), []

    def make(rows):
        if rows.start == (-1 if stop is None else stop * SIZE):
            raise KillError
        did.append(rows.start // SIZE)
        return {FEATURES: data()[rows.start : rows.stop], ROWS: torch.tensor(rows)}

    class Counted:
        def __init__(self, what, total):
            self.total = total

        def __enter__(self):
            return lambda count: counted.append((count, self.total)) if counted is not None else None

        def __exit__(self, *_):
            pass

    workspace.counter = Counted
    try:
        return workspace.loop("test", "testing", {"of": settings}, COUNT, SIZE, make), did
    except KillError:
        return None, did
    finally:
        workspace.close()


def one_of(rank, count, missing):
    """The engine of one of `count` processes, of which all lack the blocks `missing`."""
    engine = processes("cpu")
    return SimpleNamespace(
        rank=rank,
        world_size=count,
        first=engine.first,
        jointly=engine.jointly,
        exchange=lambda own: [own, [block for block in missing if block not in own]],
    )


def same(loop, other):
    assert torch.equal(loop.column(ROWS), torch.arange(COUNT))
    one, two = (measured(w.each(FEATURES, ROWS), range(0, COUNT, 5)) for w in (loop, other))
    assert one.count == COUNT
    assert torch.equal(one.statistics.mean, two.statistics.mean)
    assert torch.equal(one.statistics.scatter, two.statistics.scatter)
    assert torch.equal(one.features, data()[::5])


@pytest.fixture
def whole(tmp_path_factory):
    return walk_on(tmp_path_factory.mktemp("whole"))[0]


def test_one_goes_on_bit_for_bit(tmp_path, whole):
    assert walk_on(tmp_path, stop=2)[1] == [0, 1]
    assert walk_on(tmp_path, stop=3)[1] == [2]
    counted = []
    loop, did = walk_on(tmp_path, counted=counted)
    assert did == [3, 4, 5]
    assert counted == [(12, COUNT), (4, COUNT), (4, COUNT), (3, COUNT)]
    same(loop, whole)
    covariance = measured(loop.each(FEATURES)).statistics.covariance
    assert np.cov(data().numpy().T) == pytest.approx(covariance.numpy(), rel=1e-12)


def test_a_walk_of_other_settings_is_another(tmp_path):
    walk_on(tmp_path, stop=4)
    assert walk_on(tmp_path, stop=1, settings="other")[1] == [0]
    assert len(list(tmp_path.glob("evaluation/*"))) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "another walk's"])
def test_a_damaged_block_is_made_anew(tmp_path, whole, damage):
    walk_on(tmp_path, stop=3)
    block = sorted(tmp_path.glob(f"evaluation/*/{BLOCKS}"))[1]
    content = bytearray(block.read_bytes())
    content[-5] ^= 1
    wrong = {"cut": bytes(content[:-9]), "flipped": bytes(content), "empty": b"", "foreign": b"mine"}
    if damage == "another walk's":
        walk_on(tmp_path / "other", settings="other")
        (other,) = (tmp_path / "other" / "evaluation").iterdir()
        wrong[damage] = (other / block.name).read_bytes()
    block.write_bytes(wrong[damage])
    loop, did = walk_on(tmp_path)
    assert did == [1, 3, 4, 5]
    same(loop, whole)


def test_what_is_damaged_after_all_is_refused(tmp_path):
    loop, _ = walk_on(tmp_path)
    loop.path(2).unlink()
    with pytest.raises(DataError, match="missing or damaged") as error:
        loop.column(ROWS)
    assert error.value.got == str(loop.path(2))


def test_any_number_of_processes_share_what_is_missing(tmp_path, whole):
    """Two killed processes left blocks 0, 1 and 3 of 0 to 5; three others do one each of the rest."""
    walk_on(tmp_path, stop=2)
    walk_on(tmp_path, stop=5, engine=one_of(1, 2, [2, 4]))
    missing = [2, 4, 5]
    for rank, block in ((2, 5), (0, 2), (1, 4)):
        assert walk_on(tmp_path, engine=one_of(rank, 3, missing))[1] == [block]
    loop, did = walk_on(tmp_path)
    assert did == []
    same(loop, whole)


def test_a_second_one_is_refused(tmp_path):
    workspace = Workspace(tmp_path, processes("cpu"))
    with pytest.raises(CheckpointError, match="another evaluation writes"):
        Workspace(tmp_path, processes("cpu"))
    workspace.close()
    Workspace(tmp_path, processes("cpu")).close()


def test_a_disk_that_refuses(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lapflow.evaluation.resumable.replace_file", full)
    with pytest.raises(DataError, match=r"cannot be written: No space[\s\S]*goes on where it was"):
        walk_on(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        Workspace(tmp_path / "file" / "below", processes("cpu"))


class TestArchive:
    def pixels(self):
        return np.random.default_rng(0).integers(0, 256, (5, 3, 4, 2), dtype=np.uint8)

    def test_it_is_numpy_s_own_file(self, tmp_path):
        write_archive(tmp_path / "s.npz", (3, 4, 2), np.split(self.pixels(), [3]), np.arange(5))
        with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
            assert set(arrays) == {"arr_0", "arr_1"}
            assert np.array_equal(arrays["arr_0"], self.pixels())
            assert arrays["arr_1"].tolist() == [0, 1, 2, 3, 4]
        assert zipfile.ZipFile(tmp_path / "s.npz").testzip() is None

    def test_an_error_leaves_the_old_file(self, tmp_path):
        (tmp_path / "s.npz").write_bytes(b"old")

        def full():
            yield self.pixels()[:3]
            raise OSError(28, "No space left on device")

        with pytest.raises(DataError, match="No space"):
            write_archive(tmp_path / "s.npz", (3, 4, 2), full(), np.arange(5))
        assert (tmp_path / "s.npz").read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]

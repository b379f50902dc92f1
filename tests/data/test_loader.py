"""The data order is a pure function of (seed, samples consumed), whatever reads it."""

import itertools
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.core.errors import ConfigError, DataError, ImageError
from lapflow.data import Batches, Digits, flipped, indices, order, place
from lapflow.data import loader as module
from lapflow.data.loader import load_split
from lapflow.data.quarantine import TRIES, substitutes


class Ramp(Dataset):
    """Image i holds i / 100 in its left column and 0 elsewhere; counts its reads."""

    def __init__(self, *, count: int = 10, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken, self.reads = count, broken, 0

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, 2, 2

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("even", "odd")

    def size(self, split: Split) -> int:
        return self.count if split == "train" else 0

    def read(self, split: Split, index: int) -> Sample:
        self.reads += 1
        if index in self.broken:
            raise ImageError("an image cannot be read", got=f"hole {index}", remedy="replace it")
        image = torch.zeros(1, 2, 2)
        image[..., 0] = index / 100
        return Sample(image, {"label": index % 2})


def take(count, *args, **options):
    return list(itertools.islice(Batches(*args, **options), count))


def same(a, b):
    return torch.equal(a.images, b.images) and a.annotations == b.annotations and a.positions == b.positions


@given(seed=st.integers(0, 2**63), size=st.integers(1, 60), epoch=st.integers(0, 10**6))
def test_order_is_a_permutation_and_pure(seed, size, epoch):
    first = order(seed, size, epoch).clone()
    order.cache_clear()
    assert torch.equal(first, order(seed, size, epoch))
    assert sorted(first.tolist()) == list(range(size))


def test_order_differs_by_seed_and_epoch():
    orders = [tuple(order(seed, 50, epoch).tolist()) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25


@given(seed=st.integers(0, 9), size=st.integers(1, 20), start=st.integers(0, 100), count=st.integers(0, 50))
def test_indices_are_places_across_epochs(seed, size, start, count):
    assert indices(seed, size, start, start + count) == [
        place(seed, size, p)[1] for p in range(start, start + count)
    ]
    assert place(seed, size, start)[0] == start // size


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 12),
    batch=st.integers(1, 9),
    before=st.integers(0, 6),
    flip=st.booleans(),
)
def test_resumes_anywhere(seed, count, batch, before, flip):
    data = Ramp(count=count)
    whole = take(before + 3, data, "train", seed=seed, batch_size=batch, flip=flip)
    resumed = take(3, data, "train", seed=seed, batch_size=batch, flip=flip, consumed=before * batch)
    assert all(same(a, b) for a, b in zip(whole[before:], resumed, strict=True))


def test_every_image_once_per_epoch():
    batches = take(5, Ramp(count=10), "train", seed=3, batch_size=4)
    seen = torch.cat([b.images[:, 0, 0, 0] for b in batches]).mul(100).round().int().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert [p for b in batches for p in b.positions] == list(range(20))
    assert all(b.images.dtype == torch.float32 for b in batches)


@settings(deadline=None, max_examples=30)
@given(world=st.integers(1, 4), share=st.integers(1, 3), consumed=st.integers(0, 40), flip=st.booleans())
def test_rank_slices_compose_the_global_batch(world, share, consumed, flip):
    options = {"seed": 1, "batch_size": world * share, "consumed": consumed, "flip": flip}
    whole = take(3, Ramp(), "train", **options)
    ranks = [take(3, Ramp(), "train", rank=r, world_size=world, **options) for r in range(world)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([r[step].images for r in ranks]), batch.images)
        assert [y for r in ranks for y in r[step].annotations["label"]] == batch.annotations["label"]
        assert [p for r in ranks for p in r[step].positions] == batch.positions


def test_workers_change_nothing():
    options = {"seed": 5, "batch_size": 6, "consumed": 7, "flip": True}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    ahead = take(8, Ramp(), "train", workers=2, **options)
    assert torch.equal(state, torch.get_rng_state()), "the global random state was touched"
    assert all(same(a, b) for a, b in zip(take(8, Ramp(), "train", **options), ahead, strict=True))


BROKEN = (1, 3, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_arrive_whole(workers):
    with pytest.raises(DataError) as error:
        take(10, Ramp(count=1, broken=(0,)), "train", seed=0, batch_size=2, workers=workers)
    assert str(error.value).splitlines()[1:3] == ["  at:       train/0", "  got:      hole 0"]


def shown(batch):
    return batch.images.amax((1, 2, 3)).mul(100).round().int().tolist()


def test_a_bad_image_is_replaced_by_another_with_its_label():
    batches = take(3, Ramp(broken=BROKEN), "train", seed=0, batch_size=10)
    for batch in batches:
        wanted = indices(0, 10, batch.positions[0], batch.positions[-1] + 1)
        stand_ins = {one.index: one for one in batch.unreadable}
        assert sorted(stand_ins) == list(BROKEN)
        assert [one.index for one in batch.unreadable] == [index for index in wanted if index in BROKEN]
        for index, image, label in zip(wanted, shown(batch), batch.annotations["label"], strict=True):
            assert label == image % 2
            assert image not in BROKEN
            if index in BROKEN:
                one = stand_ins[index]
                assert (one.name, one.cause, one.substitute) == (
                    f"train/{index}",
                    f"hole {index}",
                    f"train/{image}",
                )
            else:
                assert image == index
    assert all(set(batch.unreadable) == set(batches[0].unreadable) for batch in batches), (
        "another epoch, another substitute"
    )


@pytest.mark.parametrize("flip", [False, True])
def test_substitutes_are_the_same_however_they_are_read(monkeypatch, flip):
    options = {"seed": 4, "flip": flip}
    kept = take(6, Ramp(broken=BROKEN), "train", batch_size=6, **options)
    others = [take(6, Ramp(broken=BROKEN), "train", batch_size=6, workers=2, **options)]
    others.append(
        [
            *take(2, Ramp(broken=BROKEN), "train", batch_size=6, **options),
            *take(4, Ramp(broken=BROKEN), "train", batch_size=6, consumed=12, **options),
        ]
    )
    monkeypatch.setattr(module, "CACHE_BYTES", 0)
    others.append(take(6, Ramp(broken=BROKEN), "train", batch_size=6, **options))
    assert any(batch.unreadable for batch in kept)
    for other in others:
        assert all(same(a, b) and a.unreadable == b.unreadable for a, b in zip(kept, other, strict=True))
    ranks = [
        take(6, Ramp(broken=BROKEN), "train", batch_size=6, rank=r, world_size=2, **options) for r in (0, 1)
    ]
    for whole, *parts in zip(kept, *ranks, strict=True):
        assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
        assert tuple(one for p in parts for one in p.unreadable) == whole.unreadable


@given(index=st.integers(0, 10**6), size=st.integers(1, 40))
def test_substitutes_are_others_and_all_of_a_small_set(index, size):
    index %= size
    found = list(substitutes("train", index, size))
    assert len(found) == len(set(found)) == min(size - 1, TRIES)
    assert index not in found
    assert all(0 <= other < size for other in found)
    assert found == list(substitutes("train", index, size))


def test_substitutes_spread_over_the_set():
    firsts = {next(substitutes("train", index, 1000)) for index in range(1000)}
    assert len(firsts) > 550  # of 1000 draws with replacement 632 differ


def test_one_good_image_is_found_among_sixteen():
    batch = take(1, Ramp(count=17, broken=tuple(range(16))), "train", seed=0, batch_size=17)[0]
    assert shown(batch) == [16] * 17


def test_a_plugins_bug_is_not_taken_for_a_bad_image():
    class Buggy(Ramp):
        def read(self, split, index):
            return {}["no such key"]

    for workers in (0, 1):
        with pytest.raises(KeyError, match="no such key") as error:
            take(1, Buggy(), "train", seed=0, batch_size=2, workers=workers)
    assert "in read" in str(error.value), "the worker's traceback is lost"


def test_flips_are_keyed_by_position_and_fair():
    batches = take(50, Ramp(), "train", seed=2, batch_size=20, flip=True)
    for batch in batches:
        mirrored = torch.tensor([flipped(2, p) for p in batch.positions])
        zero = batch.images.abs().sum((1, 2, 3)) == 0
        assert torch.equal((batch.images[..., 1].abs().sum((1, 2)) > 0) | (zero & mirrored), mirrored)
    assert abs(sum(flipped(2, p) for p in range(4000)) / 4000 - 0.5) < 0.03
    assert [flipped(2, p) for p in range(64)] != [flipped(3, p) for p in range(64)]


def test_small_sets_are_read_once(monkeypatch):
    data = Ramp()
    take(10, data, "train", seed=0, batch_size=5)
    assert data.reads == 10
    monkeypatch.setattr(module, "CACHE_BYTES", 0)
    again = Ramp()
    plain = take(10, again, "train", seed=0, batch_size=5, flip=True)
    assert again.reads == 50
    monkeypatch.undo()
    assert all(
        same(a, b)
        for a, b in zip(plain, take(10, data, "train", seed=0, batch_size=5, flip=True), strict=True)
    )


def test_nothing_is_read_before_iteration_and_batches_are_fresh():
    data = Ramp()
    batches = Batches(data, "train", seed=0, batch_size=10)
    assert data.reads == 0
    first = next(iter(batches))
    kept = first.images.clone()
    first.images.zero_()
    assert torch.equal(next(iter(batches)).images, kept)


def test_overhead_is_small():
    batches = iter(Batches(Digits(), "train", seed=0, batch_size=128))
    for _ in range(20):
        next(batches)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        next(batches)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


def test_errors():
    with pytest.raises(ConfigError, match="does not divide") as error:
        Batches(Ramp(), "train", seed=0, batch_size=10, world_size=4)
    assert "multiple of 4" in str(error.value)
    with pytest.raises(DataError, match="test split is empty"):
        Batches(Ramp(), "test", seed=0, batch_size=2)


def test_load_split_leaves_out_what_cannot_be_read():
    images, labels = load_split(Ramp(broken=BROKEN), "train")
    assert images[:, 0, 0, 0].mul(100).round().int().tolist() == [0, 2, 5, 6, 7, 8, 9]
    assert labels.tolist() == [0, 0, 1, 0, 1, 0, 1]
    with pytest.raises(DataError, match="cannot be read"):
        load_split(Ramp(broken=tuple(range(10))), "train")


def test_load_split_takes_evenly_spaced_images():
    images, labels = load_split(Ramp(), "train", max_images=5)
    assert images[:, 0, 0, 0].mul(100).round().int().tolist() == [0, 2, 4, 6, 8]
    assert labels.tolist() == [0] * 5

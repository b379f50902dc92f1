"""Minibatch optimal transport against optima that are known, and in a training pair."""

import itertools

import pytest
import torch

from lapflow.flows import AppendBridge, LinearPath
from lapflow.flows.flow import Flow
from lapflow.pyramids import LaplacianPyramid
from lapflow.schedules import CumulativeIntervals
from lapflow.schedules.draws import MinibatchOT
from tests.support import images, seeded


def test_in_one_dimension_the_optimum_is_sorted():
    data, noise = images(50, 1, 1, 1), images(50, 1, 1, 1, seed=1)
    rows = MinibatchOT().pair(data, noise)
    assert torch.equal(noise[rows].flatten().argsort(), data.flatten().argsort())


def test_of_all_permutations_it_is_the_best():
    data, noise = images(6, 2, 2, 2), images(6, 2, 2, 2, seed=1)
    rows = MinibatchOT().pair(data, noise)
    best = min(((data - noise[list(p)]) ** 2).sum().item() for p in itertools.permutations(range(6)))
    assert ((data - noise[rows]) ** 2).sum().item() == pytest.approx(best, rel=1e-12)


def test_within_groups_each_group_has_its_own_optimum():
    data, noise = images(12, 1, 1, 1), images(12, 1, 1, 1, seed=1)
    groups = torch.arange(12) % 2
    rows = MinibatchOT().pair(data, noise, groups)
    for group in (0, 1):
        members = groups == group
        assert torch.equal(noise[rows][members].flatten().argsort(), data[members].flatten().argsort())


def test_in_training_noise_stays_within_its_class():
    parts = (LaplacianPyramid(levels=2), CumulativeIntervals(), LinearPath(), AppendBridge())
    x, labels = images(16, 1, 4, 4), torch.arange(16) % 2
    plain, paired = (
        Flow(*parts, coupling=c).training_point(x, seeded(), condition=labels) for c in (None, MinibatchOT())
    )
    coarse = max(plain.noise)
    for label in (0, 1):
        own, got = (p.noise[coarse][labels == label].flatten(1).sum(1).sort().values for p in (plain, paired))
        assert torch.allclose(own, got)


def test_training_pairs_use_it_and_stay_a_function_of_the_generators():
    def flow(coupling=None):
        parts = (LaplacianPyramid(levels=2), CumulativeIntervals(), LinearPath(), AppendBridge())
        return Flow(*parts, coupling=coupling)

    x = images(16, 1, 4, 4)
    point, plain = (flow(c).training_point(x, seeded()) for c in (MinibatchOT(), None))
    again = flow(MinibatchOT()).training_point(x, seeded())
    assert all(torch.equal(point.noise[k], again.noise[k]) for k in point.noise)

    def distance(pair):
        return sum((pair.data[k] - pair.noise[k]).square().sum() for k in pair.data)

    assert distance(point) < distance(plain)
    coarse = max(point.noise)
    order = lambda pair: pair.noise[coarse].flatten(1).sum(1).sort().values  # noqa: E731
    assert torch.allclose(order(point), order(plain)), "the same noise, in another order"

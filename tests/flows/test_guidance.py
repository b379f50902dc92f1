"""Classifier-free guidance."""

import pytest
import torch

from lapflow.core.errors import ConfigError
from lapflow.sampling.guidance import ClassifierFreeGuidance
from tests.support import images


def test_guidance_extrapolates_from_the_unconditional_prediction():
    conditional, unconditional = {0: images(2, 4, 2, 2, seed=1)}, {0: images(2, 4, 2, 2, seed=2)}
    guided = ClassifierFreeGuidance(scale=1.5).combine(conditional, unconditional, 1)
    torch.testing.assert_close(guided[0], unconditional[0] + 1.5 * (conditional[0] - unconditional[0]))


def test_scales_interval_and_channels():
    conditional = {1: torch.ones(1, 4, 1, 1), 0: torch.ones(1, 4, 1, 1)}
    unconditional = {k: torch.zeros_like(x) for k, x in conditional.items()}
    guide = ClassifierFreeGuidance(scale=[2.0, 3.0], interval=(0.25, 0.5), channels=3)
    guided = guide.combine(conditional, unconditional, 2)
    assert guided[1].flatten().tolist() == [2, 2, 2, 1]
    assert guided[0].flatten().tolist() == [3, 3, 3, 1]
    assert [guide.active(t) for t in (0.2, 0.25, 0.5, 0.6)] == [False, True, True, False]


def test_scale_one_is_off():
    assert not ClassifierFreeGuidance().active(0.5)
    assert not ClassifierFreeGuidance(scale=[1.0, 1.0]).active(0.5)


def test_bad_guidance_is_refused():
    with pytest.raises(ConfigError, match="interval"):
        ClassifierFreeGuidance(interval=(0.5, 0.2))
    with pytest.raises(ConfigError, match="every scale"):
        ClassifierFreeGuidance(scale=[2.0]).require(2)

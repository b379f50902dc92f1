"""Small networks with every parameter drawn, and states for them."""

import torch

from lapflow.backends.attention import SDPA
from lapflow.models import MoTDiT
from lapflow.pyramids.laplacian import LaplacianPyramid

SMALL = {"depth": 2, "width": 16, "heads": 2}


def laplacian(levels=3, shape=(2, 8, 8)):
    return LaplacianPyramid(levels=levels).bands(shape)


def randomise(model, seed=0):
    """Draw every parameter: with adaLN-zero's initial zeros no test of the output could fail."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def small(bands, num_classes=5, cls=MoTDiT, attention=None, **options):
    patch = {} if "patch" in options else {"patch": 1}
    return randomise(cls(bands, num_classes, attention or SDPA(), **SMALL, **patch, **options))


def states(bands, batch=3, seed=1, scales=None):
    generator = torch.Generator().manual_seed(seed)
    drawn = {k: torch.randn(batch, *band.shape, generator=generator) for k, band in bands.items()}
    return {k: x for k, x in drawn.items() if scales is None or k in scales}


def inputs(bands, batch=3, num_classes=5, seed=1, scales=None):
    """state, t, labels."""
    generator = torch.Generator().manual_seed(seed + 100)
    t = torch.rand(batch, generator=generator)
    labels = torch.randint(num_classes, (batch,), generator=generator) if num_classes else None
    return states(bands, batch, seed, scales), t, labels

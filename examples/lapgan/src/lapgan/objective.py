"""LapGAN's objective: at each scale a discriminator that tells the generator's image from the real one, given
the coarser.

The losses are those of Goodfellow et al. 2014, the generator's in the form that does not saturate:

    discriminator   softplus(-D(x)) + softplus(D(G(z)))        generator   softplus(-D(G(z)))

and a penalty that the paper of 2015 did not have yet and without which small discriminators diverge: gamma /
2 |grad D|^2 at real and generated images (R1, Mescheder et al. 2018; R2), as the difference quotient (D(x + e
n) - D(x))^2 / e^2 along one white direction n, whose mean is |grad D|^2 (Lin et al. 2025, "approximated R1"):
it needs no second derivative, which sharded engines do not give. The direction is the sample's own noise, so
nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.backbone import MAIN, Backbone
from lapflow.core.condition import class_rows
from lapflow.core.decomposition import Band
from lapflow.core.objective import Objective, frozen
from lapflow.flows.flow import Flow, TrainingPoint
from lapgan.layers import Block


class Discriminator(nn.Module):
    """D of one scale: an image, the coarser one beside it and the class -> a score [b]."""

    def __init__(self, band: Band, num_classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.first = nn.Conv2d(band.channels + band.condition, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, num_classes) for _ in range(blocks))
        self.mix = nn.Linear(width * math.prod(band.sizes), 2 * width)
        self.score = nn.Linear(2 * width, 1)
        # The projection discriminator of Miyato & Koyama 2018:
        self.said = nn.Embedding(num_classes + 1, 2 * width)

    def forward(self, image: Tensor, coarse: Tensor | None, labels: Tensor | None) -> Tensor:
        labels = class_rows(labels, self.num_classes, image)
        h = self.first(image if coarse is None else torch.cat([image, coarse], dim=1))
        for block in self.blocks:
            h = block(h, labels)
        h = F.leaky_relu(self.mix(F.leaky_relu(h, 0.2).flatten(1)), 0.2)
        return self.score(h)[:, 0].float() + (self.said(labels) * h).float().mean(1)


class Adversarial(Objective):
    """A discriminator for each scale, trained with the generators: their losses are in one sum, each kept
    from the other's weights."""

    def __init__(
        self,
        *,
        width: Annotated[int, Field(ge=1, description="channels of the discriminators' hidden layers")] = 64,
        blocks: Annotated[int, Field(ge=1, description="residual blocks of two convolutions")] = 2,
        penalty: Annotated[float, Field(ge=0, description="gamma: weight of D's squared gradient")] = 1.0,
        distance: Annotated[float, Field(gt=0, description="e: step along the noise")] = 0.05,
    ) -> None:
        self.width, self.blocks, self.penalty, self.distance = width, blocks, penalty, distance

    def build(self, flow: Flow, bands: Mapping[int, Band], num_classes: int) -> None:
        super().build(flow, bands, num_classes)
        self.module = nn.ModuleDict(
            {str(k): Discriminator(band, num_classes, self.width, self.blocks) for k, band in bands.items()}
        )

    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        assert isinstance(self.module, nn.ModuleDict), "build comes before the first call"
        directions = self.flow.to_image(point.noise, point.segment)
        given, losses = point.condition, dict[str, Tensor]()
        for k, made in network(point.state, point.t, given)[MAIN].items():
            judge, real = self.module[str(k)], point.target[k].to(made.dtype)
            coarse = None if given.image is None else given.image.value[k]
            with frozen(judge):
                losses[f"generator{k}"] = F.softplus(-judge(made, coarse, given.labels)).mean()
            fake = made.detach()
            away = self.distance * directions[k]
            # One call for all: real, made, and both a little further along the noise.
            images = torch.cat([real, fake, real + away, fake + away] if self.penalty else [real, fake])
            copies = len(images) // len(real)
            beside = None if coarse is None else coarse.repeat(copies, 1, 1, 1)
            labels = None if given.labels is None else given.labels.repeat(copies)
            on_real, on_fake, *moved = judge(images, beside, labels).chunk(copies)
            losses[f"discriminator{k}"] = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
            if moved:
                slopes = ((moved[0] - on_real).square() + (moved[1] - on_fake).square()) / self.distance**2
                losses[f"penalty{k}"] = self.penalty / 2 * slopes.mean()
        return losses

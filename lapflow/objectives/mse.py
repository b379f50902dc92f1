"""Objectives: the weighted mean squared error of each scale, the default, and with it the variational
bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.backbone import MAIN, VARIANCE, Backbone, Heads
from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError
from lapflow.core.objective import Objective
from lapflow.core.path import Coefficients, DiscretePath, Path, learned_variance, posterior_variance
from lapflow.flows.flow import Flow, TrainingPoint


class MSE(Objective):
    """The mean squared error of each active scale's prediction, times the scale's weight (LapFlow, w_k = 1)
    and what the prediction weighs a time with."""

    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        return squared_errors(network(point.state, point.t, point.condition), point)


def squared_errors(heads: Heads, point: TrainingPoint) -> dict[str, Tensor]:
    """The weighted error of each active scale of the head `main`, under the scale's name."""
    return {
        f"scale{k}": weighted_error(heads[MAIN][k], target, point.weights[k])
        for k, target in point.target.items()
    }


def weighted_error(output: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """The mean over samples of weight (a number, or [b]) times the mean squared error of a sample."""
    squares = (output.float() - target.float()).square()
    if isinstance(weight, Tensor) and weight.ndim:
        return (weight.float() * squares.flatten(1).mean(1)).mean()
    return weight * squares.mean()


def discrete(path: Path) -> DiscretePath:
    """The path. Raises `ConfigError` for one without discrete times."""
    if not isinstance(path, DiscretePath):
        raise ConfigError(
            "the variational bound needs discrete times",
            got=type(path).__name__,
            expected="a DiscretePath, such as vp-discrete",
            remedy="set flow.path=vp-discrete, or objective=mse",
        )
    return path


class VariationalMSE(Objective):
    """The default objective, plus the variational term of the head `variance`. Wants discrete times.

    DiT's: per step n -> n-1 (Nichol & Dhariwal 2021, sections 2.1 and 3.1; DiT's
    `GaussianDiffusion.training_losses` with MSE):

        L = |eps - eps_theta|^2 + KL(q(x_(n-1) | x_n, x1) || p_theta(x_(n-1) | x_n)) / ln 2,

    q and p_theta Gaussians with the path's posterior mean of the true and the predicted x1, betatilde and the
    learned variance; the predicted mean is detached, so that the term trains the variance alone. At n = 0 it
    is the negative log-likelihood of the data in bins of `bin_width` under p_theta.
    """

    heads = (VARIANCE,)

    def __init__(
        self,
        *,
        weight: Annotated[float, Field(ge=0, description="weight of the variational term, in bits")] = 1.0,
        bin_width: Annotated[float, Field(gt=0, description="width of a grey level in the data's units")] = 2
        / 255,
    ) -> None:
        self.weight, self.bin_width = weight, bin_width

    def build(self, flow: Flow, bands: Mapping[int, Band], num_classes: int) -> None:
        super().build(flow, bands, num_classes)
        discrete(flow.path)

    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        heads = network(point.state, point.t, point.condition)
        if VARIANCE not in heads:
            raise ConfigError(
                "the objective vlb trains a learned variance, and the network returns none",
                got=f"heads {', '.join(heads)}",
                expected="a backbone with learn_sigma: true",
                remedy="set model.learn_sigma=true, or objective=mse",
            )
        losses = squared_errors(heads, point)
        losses["variational"] = self.weight * self._term(heads, point)
        return losses

    def _term(self, heads: Heads, point: TrainingPoint) -> Tensor:
        flow, segment, t = self.flow, point.segment, point.path_time
        assert isinstance(t, Tensor), "a path with discrete times has one time for all scales"
        bands, _ = flow.interpolate(point.data, point.noise, t, segment)
        state = flow.to_image(bands, segment)
        predicted, _ = flow.endpoints({k: x.detach() for k, x in heads[MAIN].items()}, state, t, segment)
        head = flow.to_bands(heads[VARIANCE], segment)
        after = discrete(flow.path).next_timestep(t, segment)
        total = []
        for k, x1 in point.data.items():
            c, d = (flow.path.coefficients(u, segment, k).expand(x1) for u in (t, after))
            total.append(self._band(c, d, bands[k], x1, predicted[k], head[k], flow.noise_std(k, segment)))
        return torch.stack(total).sum()

    def _band(
        self,
        c: Coefficients,
        after: Coefficients,
        x: Tensor,
        data: Tensor,
        predicted: Tensor,
        head: Tensor,
        std: float,
    ) -> Tensor:
        last = after.sigma == 0
        small = posterior_variance(c, after)
        log_true = torch.log(torch.where(last, torch.ones_like(small), small)).float()
        log_model = torch.log(learned_variance(head.float(), c, after)).float()
        keep = (after.sigma**2 - small).clamp(min=0).sqrt() / c.sigma

        def mean(x1: Tensor) -> Tensor:
            return (after.alpha * x1 + keep * (x - c.alpha * x1)).float()

        gap = (mean(data) - mean(predicted)) ** 2 / std**2
        kl = 0.5 * (log_model - log_true + torch.exp(log_true - log_model) - 1 + gap * torch.exp(-log_model))
        likelihood = self._likelihood(data.float(), mean(predicted), (0.5 * log_model).exp() * std)
        bits = torch.where(last, -likelihood, kl) / math.log(2)
        return bits.mean()

    def _likelihood(self, data: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """ln of the probability of data's bin under a normal law; the outermost bins of [-1, 1] are open."""
        half, ndtr = self.bin_width / 2, torch.special.ndtr
        low = torch.where(data < -1 + half, -torch.inf, (data - half - mean) / std)
        high = torch.where(data > 1 - half, torch.inf, (data + half - mean) / std)
        return torch.log((ndtr(high) - ndtr(low)).clamp(min=1e-12))

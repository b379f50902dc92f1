"""The discrete variance-preserving path of DDPM, DiT and LDM (Ho et al. 2020; Nichol & Dhariwal 2021).

Times n = 0 .. N-1, n = N-1 the noisiest; abar_n = prod_(m <= n) (1 - beta_m), alpha = sqrt(abar), sigma =
sqrt(1 - abar). In u, n + 1 = N (1 - u), so u = 0 is n = N-1 and u = 1 is "n = -1", the data (abar =
1). Between the integers ln abar is interpolated (cubic Hermite), which gives the derivatives that an ODE
solver asks for; training and the ancestral solvers stay on the integers. The network's time is n / 1000,
which its sinusoid of 1000 t turns into DiT's.

* `linear` betas (DiT): linspace(1e-4, 2e-2, N). `scaled-linear` (LDM): linspace(sqrt .0015, sqrt .0195, N)^2.
* `linspace` spacing (DiT's respacing, n = round(999 i / 249) for 250 of 1,000 steps); `leading` (LDM: 1 + 20
  i for 50), whose first time is not N-1.
* `clean_end`: LDM's own code ends at abar_0 = .9985, where noise of std .039 stays; `false` reproduces that.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, DiscretePath
from lapflow.util.transfer import upload


class DiscreteVPPath(DiscretePath):
    """Discrete-time diffusion: N noise levels from a table of betas."""

    def __init__(
        self,
        *,
        times: Annotated[int, Field(ge=2, description="number N of noise levels")] = 1000,
        betas: Annotated[
            Literal["linear", "scaled-linear"],
            Field(description="linear from 1e-4 to 2e-2 (DiT), or the square of a linear one (LDM)"),
        ] = "linear",
        spacing: Annotated[
            Literal["linspace", "leading"], Field(description="which of the N times fewer steps visit")
        ] = "linspace",
        clean_end: Annotated[
            bool, Field(description="end at the data; false: at the first noise level, as LDM's code does")
        ] = True,
    ) -> None:
        self.times, self.spacing, self.clean_end = times, spacing, clean_end
        first, last, power = (1e-4, 2e-2, 1) if betas == "linear" else (0.0015**0.5, 0.0195**0.5, 2)
        table = torch.linspace(first, last, times, dtype=torch.float64, device="cpu") ** power
        log_abar = torch.log1p(-table).cumsum(0)
        # Knots at n + 1 = 0 .. N; the first is the data.
        self._knots = torch.cat([log_abar[:1] if not clean_end else torch.zeros_like(log_abar[:1]), log_abar])
        steps = log_abar.diff()
        self._slopes = torch.cat([steps[:1], (steps[1:] + steps[:-1]) / 2, steps[-1:]])  # at n = 0 .. N-1
        self.u_max = 1.0 if clean_end else 1 - 1 / times
        self.sigma_min = 0.0 if clean_end else float((-torch.expm1(log_abar[0])).sqrt()) * 1.0001

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        u, rate = segment.local_time(t), segment.rate
        position = self._position(u)
        log_abar, slope = self._log(position)
        alpha, sigma = torch.exp(log_abar / 2), torch.sqrt(-torch.expm1(log_abar))
        dalpha = alpha * slope / 2 * (-self.times * rate)
        dsigma = -alpha * dalpha / sigma  # since alpha^2 + sigma^2 = 1
        if self.clean_end:
            # Between the data and n = 0 the noise falls linearly, so that its derivative is finite.
            first = float((-torch.expm1(self._knots[1])).sqrt())
            low = position < 1
            sigma = torch.where(low, first * position, sigma)
            dsigma = torch.where(low, -first * self.times * rate, dsigma)
            alpha = torch.where(low, torch.sqrt(1 - sigma**2), alpha)
            dalpha = torch.where(low, -sigma * dsigma / alpha, dalpha)
        return Coefficients(alpha, sigma, dalpha, dsigma)

    def train_t_max(self, segment: Segment) -> float:
        return segment.global_time(1.0)  # n = 0 trains, wherever sampling ends

    def grid(self, segment: Segment, steps: int) -> list[float]:
        if self.spacing == "leading" and self.times % steps:
            whole = [n for n in range(1, self.times + 1) if self.times % n == 0]
            near = sorted(whole, key=lambda n: abs(n - steps))[:2]
            raise ConfigError(
                "leading spacing takes every n-th time, and the steps do not divide them",
                got=f"{steps} steps of {self.times} times",
                expected=f"a divisor, for instance {' or '.join(map(str, sorted(near)))}",
                remedy="set sampling.solver.steps, or path.spacing=linspace",
            )
        if steps > self.times:
            raise ConfigError(
                "more steps than the path has times",
                got=f"{steps} steps",
                expected=f"at most {self.times}",
                remedy="set sampling.solver.steps lower",
            )
        if steps == self.times:
            found = list(range(steps))
        elif self.spacing == "leading":
            found = [1 + i * (self.times // steps) for i in range(steps)]
        elif steps == 1:
            found = [self.times - 1]
        else:
            found = [round((self.times - 1) * i / (steps - 1)) for i in range(steps)]
        return [*(segment.global_time(1 - (n + 1) / self.times) for n in reversed(found)), segment.stop]

    def model_time(self, t: Tensor, segment: Segment) -> Tensor:
        return (self._position(segment.local_time(t)) - 1) / 1000

    def discretize(self, t: Tensor, segment: Segment) -> Tensor:
        """The time of the integer n + 1 = ceil(N (1 - u)) in 1 .. N, which is uniform if u is."""
        position = torch.ceil((1 - segment.local_time(t)) * self.times).clamp(1, self.times)
        u = 1 - position / self.times
        return u if segment.window is None else segment.start + (u - segment.window[0]) / segment.rate

    def next_timestep(self, t: Tensor, segment: Segment) -> Tensor:
        """The time of n - 1; the data's after n = 0."""
        return (t + 1 / (self.times * segment.rate)).clamp(max=segment.global_time(1.0))

    def _position(self, u: Tensor) -> Tensor:
        """n + 1 = N (1 - u), rounded where it is all but an integer: beside a knot slopes differ."""
        position = ((1 - u) * self.times).clamp(0, self.times)
        nearest = torch.round(position).detach()
        close = 1e-3 if u.dtype != torch.float64 else 1e-9
        exact = nearest + (position - position.detach())
        return torch.where((position - nearest).abs() < close, exact, position)

    def _log(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """ln abar and its derivative by n, at n + 1 = `position`: cubic Hermite, linear below n = 0."""
        knots = upload(self._knots, position.device, position.dtype)
        slopes = upload(self._slopes, position.device, position.dtype)
        low = position.detach().floor().long().clamp(0, self.times - 1)
        x, high = position - low, low + 1
        a, b = knots[low], knots[high]
        da, db = slopes[(low - 1).clamp(min=0)], slopes[high - 1]
        cubic = (1 + 2 * x) * (1 - x) ** 2 * a + x * (1 - x) ** 2 * da + x**2 * (3 - 2 * x) * b
        cubic = cubic + x**2 * (x - 1) * db
        slope = 6 * x * (x - 1) * (a - b) + (3 * x**2 - 4 * x + 1) * da + (3 * x**2 - 2 * x) * db
        below = low == 0
        return torch.where(below, a + x * (b - a), cubic), torch.where(below, b - a, slope)

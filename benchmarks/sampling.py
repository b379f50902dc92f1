"""Whole sampling, fixed steps uniform in time: LapFlow beside one scale, ours and diffusers' DiT; and what
the sampler itself takes.

python -m benchmarks.sampling [--repeats N] [--steps 24] [--tokens 2048]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import lapflow
from benchmarks.measure import interleaved, write
from benchmarks.networks import CHANNELS, CLASSES, PATCH, diffusers_dit, ours
from lapflow.flows import AppendBridge, LinearPath
from lapflow.models import MoTDiT
from lapflow.pyramids import LaplacianPyramid
from lapflow.schedules import CumulativeIntervals
from lapflow.solvers import Euler

SETTINGS: tuple[tuple[int, tuple[float, ...]], ...] = (
    (32, (0.0, 0.5)),
    (64, (0.0, 0.5)),
    (64, (0.0, 0.33, 0.67)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=24, help="Euler steps over [0, 1], in each segment its share"
    )
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[512, 2048], help="tokens of one scale in a batch"
    )
    options = parser.parse_args()
    rows = []
    for side, starts in SETTINGS:
        for tokens in options.tokens:
            if batch := tokens * PATCH**2 // side**2:
                rows.append(row(side, starts, options.steps, batch, options.repeats))
                print(rows[-1], flush=True)
    write("sampling", rows)


def row(side: int, starts: Sequence[float], steps: int, batch: int, repeats: int) -> dict[str, object]:
    many, one = Sampling(side, starts, steps, batch), Sampling(side, (0.0,), steps, batch)
    peer = diffusers_dit(side)
    seconds = interleaved(
        {"lapflow": many, "one scale": one, "diffusers DiT": lambda: euler(peer, side, steps, batch)}, repeats
    )
    return {
        "latents": f"{side}x{side}x4",
        "starts": " ".join(f"{s:g}" for s in starts),
        "steps": " + ".join(map(str, many.steps)),
        "batch": batch,
        "arithmetic": many.multiply_adds() / one.multiply_adds(),
        **{f"{name} s": s for name, s in seconds.items()},
        "lapflow / one scale": seconds["lapflow"] / seconds["one scale"],
        "lapflow / diffusers": seconds["lapflow"] / seconds["diffusers DiT"],
        "sampler's share": many.overhead(),
        "sampler's share, one scale": one.overhead(),
    }


class Sampling:
    """`lapflow.sample` with an S/2 network and Euler steps shared out by the segments' lengths."""

    def __init__(
        self, side: int, starts: Sequence[float], steps: int, batch: int, device: str = "cpu", size: str = "S"
    ) -> None:
        levels = len(starts)
        self.flow = lapflow.compose(
            LaplacianPyramid(levels=levels),
            CumulativeIntervals(starts=list(starts)),
            LinearPath(),
            AppendBridge(),
        )
        ends = [*starts[1:], 1.0]
        self.steps = [round(steps * (end - start)) for start, end in zip(starts, ends)]
        self.model: MoTDiT = ours(side, levels, size).eval().to(device)
        self.shape = (batch, CHANNELS, side, side)
        self.labels = torch.arange(batch) % CLASSES

    def __call__(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return lapflow.sample(
            self.flow,
            self.model,
            self.shape,
            condition=self.labels,
            solver=Euler(steps=self.steps),
            generator=generator,
        )

    def multiply_adds(self) -> int:
        return sum(
            n * sum(self.model.multiply_adds(s.scales).values())
            for n, s in zip(self.steps, self.flow.segments)
        )

    def overhead(self, repeats: int = 5) -> float:
        """The share of a sampling's time that is not spent in the network; the median of some."""
        inside = 0.0
        forward = self.model.forward

        def timed(*arguments: object) -> object:
            nonlocal inside
            start = time.perf_counter()
            found = forward(*arguments)
            inside += time.perf_counter() - start
            return found

        self.model.forward = timed  # type: ignore[method-assign, assignment]
        shares = []
        for _ in range(repeats):
            inside, start = 0.0, time.perf_counter()
            self()
            shares.append(1 - inside / (time.perf_counter() - start))
        self.model.forward = forward  # type: ignore[method-assign]
        return sorted(shares)[repeats // 2]


@torch.inference_mode()
def euler(model: Callable[..., object], side: int, steps: int, batch: int) -> Tensor:
    """The least that samples with diffusers' DiT: one network call and one addition a step."""
    x, labels = torch.randn(batch, CHANNELS, side, side), torch.arange(batch) % CLASSES
    for i in range(steps):
        t = torch.full((batch,), 1000 * i // steps)
        x = x + model(x, t, labels).sample / steps  # type: ignore[attr-defined]
    return x


if __name__ == "__main__":
    main()

"""One evaluation of the network, and one with its gradient: ours beside rectified-flow-pytorch, a dense mask,
and diffusers' DiT.

python -m benchmarks.network [--repeats N] [--batches 1 4 8]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from benchmarks.measure import interleaved, write
from benchmarks.networks import dense, diffusers_dit, inputs, ours, rectified_flow_pytorch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    options = parser.parse_args()
    rows = []
    for side, levels in ((64, 3), (32, 2)):
        for batch in options.batches:
            for gradient in (False, True):
                rows += pyramid(side, levels, batch, gradient, options.repeats)
                print(rows[-1], flush=True)
    for side in (32, 64):
        for gradient in (False, True):
            rows += single(side, 4, gradient, options.repeats)
    write("network", rows)


def pyramid(side: int, levels: int, batch: int, gradient: bool, repeats: int) -> list[dict[str, object]]:
    state, t, labels = inputs(side, levels, batch)
    networks = {
        "lapflow": ours(side, levels),
        "rectified-flow-pytorch": rectified_flow_pytorch(side, levels),
        "dense mask": dense(side, levels),
    }
    calls: dict[str, Callable[[], Iterable[Tensor]]] = {
        "lapflow": lambda: networks["lapflow"](state, t, labels)["main"].values(),
        "rectified-flow-pytorch": lambda: networks["rectified-flow-pytorch"](list(state.values()), t, labels),
        "dense mask": lambda: networks["dense mask"](state, t, labels)["main"].values(),
    }
    return compare(
        networks, calls, gradient, repeats, {"latents": f"{side}x{side}x4", "K": levels, "batch": batch}
    )


def single(side: int, batch: int, gradient: bool, repeats: int) -> list[dict[str, object]]:
    state, t, labels = inputs(side, 1, batch)
    networks = {"lapflow": ours(side, 1), "diffusers DiT": diffusers_dit(side)}
    calls: dict[str, Callable[[], Iterable[Tensor]]] = {
        "lapflow": lambda: networks["lapflow"](state, t, labels)["main"].values(),
        "diffusers DiT": lambda: [networks["diffusers DiT"](state[0], (1000 * t).long(), labels).sample],
    }
    return compare(
        networks, calls, gradient, repeats, {"latents": f"{side}x{side}x4", "K": 1, "batch": batch}
    )


def compare(
    networks: dict[str, nn.Module],
    calls: dict[str, Callable[[], Iterable[Tensor]]],
    gradient: bool,
    repeats: int,
    about: dict[str, object],
) -> list[dict[str, object]]:
    def work(call: Callable[[], Iterable[Tensor]]) -> Callable[[], None]:
        def forward() -> None:
            with torch.inference_mode():
                call()

        def both() -> None:
            torch.stack([x.square().mean() for x in call()]).sum().backward()

        return both if gradient else forward

    def clear() -> None:
        for network in networks.values():
            network.zero_grad(set_to_none=True)

    # A gradient's rounds are long: half as many.
    found = interleaved(
        {name: work(call) for name, call in calls.items()}, repeats // 2 if gradient else repeats, clear
    )
    mine = found.pop("lapflow")
    about = {"work": "forward + backward" if gradient else "forward", **about}
    return [
        {
            **about,
            "peer": name,
            "lapflow ms": 1e3 * mine,
            "peer ms": 1e3 * peer,
            "peer / lapflow": peer / mine,
        }
        for name, peer in found.items()
    ]


if __name__ == "__main__":
    main()

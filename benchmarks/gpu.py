"""On one CUDA GPU, bf16: sampling, training and attention kernels. Without a GPU it says so and writes nothing.

    python -m benchmarks.gpu [--sizes S L] [--repeats N] [--compile]

- training: images per second of forward, backward and optimizer, and the share of the matrix peak that was measured just before;
- sampling: seconds of one evaluation of each segment, ours beside one scale of ours;
- peers: forward and backward beside rectified-flow-pytorch, and beside a dense mask;
- kernels: every attention backend that runs here, against float64.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.measure import interleaved, write
from benchmarks.networks import dense, inputs, ours, rectified_flow_pytorch
from lapflow.backends.attention import SDPA, Flash, Flex, Xformers
from lapflow.core.attention import AttentionBackend
from lapflow.models import MoTDiT

WORK = ((32, 1), (32, 2), (64, 1), (64, 3))
STARTS = {1: (0.0,), 2: (0.0, 0.5), 3: (0.0, 0.33, 0.67)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["S", "L"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: no CUDA device is here; nothing was measured")
    torch.backends.cuda.matmul.allow_tf32 = True
    peak = matrix_peak(options.repeats)
    rows = [{"work": "matrix product 8192, bf16", "TFLOP/s": peak / 1e12}]
    for size in options.sizes:
        rows += sampling(size, options.batch, options.repeats, options.compile)
        rows += training(size, options.batch, options.repeats, options.compile, peak)
        rows += peers(size, options.batch // 4, options.repeats)
    write("gpu", rows, kernels=kernels())


def matrix_peak(repeats: int) -> float:
    """FLOP/s of a bf16 product of two 8192 x 8192 matrices."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / interleaved({"product": lambda: a @ a}, repeats, device="cuda")["product"]


def moved(model: nn.Module, compiled: bool) -> nn.Module:
    model = model.cuda()
    if compiled:
        model.compile(fullgraph=True)
    return model


def sampling(size: str, batch: int, repeats: int, compiled: bool) -> list[dict[str, object]]:
    works: dict[str, Callable[[], object]] = {}
    for side, levels in WORK:
        model = moved(ours(side, levels, size), compiled)
        state, t, labels = inputs(side, levels, batch, "cuda")
        for n in range(1, levels + 1):
            part = dict(itertools.islice(state.items(), n))
            works[f"{side} {levels} {n}"] = lambda m=model, s=part, t=t, y=labels: _evaluate(m, s, t, y)  # type: ignore[misc]
    seconds = interleaved(works, repeats, device="cuda")
    rows: list[dict[str, object]] = []
    for side, levels in WORK:
        ends = [*STARTS[levels][1:], 1.0]
        mean = sum((end - start) * seconds[f"{side} {levels} {n + 1}"] for n, (start, end) in enumerate(zip(STARTS[levels], ends)))
        row = {"work": "evaluation, mean over the clock", "size": f"{size}/2", "latents": f"{side}x{side}x4", "K": levels, "batch": batch}
        rows.append(
            {
                **row,
                "compiled": compiled,
                "ms": 1e3 * mean,
                "samples per second at 40": batch / 40 / mean,
                "of one scale": mean / seconds[f"{side} 1 1"],
            }
        )
    return rows


def _evaluate(model: nn.Module, *given: object) -> None:
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        model(*given)


def training(size: str, batch: int, repeats: int, compiled: bool, peak: float) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for side, levels in WORK:
        model = moved(ours(side, levels, size), compiled)
        assert isinstance(model, MoTDiT)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        given = inputs(side, levels, batch, "cuda")
        torch.cuda.reset_peak_memory_stats()
        seconds = interleaved({"step": lambda m=model, o=optimizer, g=given: _step(m, o, g)}, repeats, device="cuda")["step"]  # type: ignore[misc]
        flops = 6 * batch * sum(model.multiply_adds(range(levels)).values())
        row = {
            "work": "training step",
            "size": f"{size}/2",
            "latents": f"{side}x{side}x4",
            "K": levels,
            "batch": batch,
            "compiled": compiled,
        }
        speed = {"ms": 1e3 * seconds, "images per second": batch / seconds, "of the matrix peak": flops / seconds / peak}
        rows.append({**row, **speed, "peak GiB": torch.cuda.max_memory_allocated() / 2**30})
        del model, optimizer
        torch.cuda.empty_cache()
    return rows


def _step(model: MoTDiT, optimizer: torch.optim.Optimizer, given: tuple[object, ...]) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = torch.stack([x.float().square().mean() for x in model(*given)["main"].values()]).sum()  # type: ignore[arg-type]
    loss.backward()
    optimizer.step()


def peers(size: str, batch: int, repeats: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for side, levels in ((32, 2), (64, 3)):
        state, t, labels = inputs(side, levels, batch, "cuda")
        networks = {
            "lapflow": ours(side, levels, size),
            "dense mask": dense(side, levels, size),
            "rectified-flow-pytorch": rectified_flow_pytorch(side, levels, size),
        }
        works: dict[str, Callable[[], None]] = {}
        for name, network in networks.items():
            network.cuda()
            given = (list(state.values()), t, labels) if name == "rectified-flow-pytorch" else (state, t, labels)
            works[name] = lambda n=network, g=given: _gradient(n, g)  # type: ignore[misc]
        seconds = interleaved(works, repeats, device="cuda")
        mine = seconds.pop("lapflow")
        row = {
            "work": "forward + backward",
            "size": f"{size}/2",
            "latents": f"{side}x{side}x4",
            "K": levels,
            "batch": batch,
            "ms": 1e3 * mine,
        }
        rows += [{**row, "peer": name, "peer / lapflow": s / mine} for name, s in seconds.items()]
        del networks, works
        torch.cuda.empty_cache()
    return rows


def _gradient(network: nn.Module, given: tuple[object, ...]) -> None:
    network.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16):
        found = network(*given)
        values = found["main"].values() if isinstance(found, dict) else found
        loss = torch.stack([x.float().square().mean() for x in values]).sum()
    loss.backward()


def kernels() -> list[dict[str, object]]:
    """Every backend that runs here in bf16: its largest error against float64, relative to the largest value, or why not."""
    q, k, v = (torch.randn(4, 6, n, 64, device="cuda", dtype=torch.bfloat16) for n in (256, 320, 320))
    want = nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    rows: list[dict[str, object]] = []
    candidates: tuple[type[AttentionBackend], ...] = (SDPA, Flash, Xformers, Flex)
    for cls in candidates:
        reason = cls().supports(q.device, q.dtype, 64, False)
        row: dict[str, object] = {"kernel": cls.__name__, "reason": reason}
        if reason is None:
            row["error"] = float((cls().attend(q, k, v).double() - want).abs().max() / want.abs().max())
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()

"""On one CUDA GPU, bf16: sampling, training and attention kernels. Without a GPU it says so and writes
nothing.

    python -m benchmarks.gpu [--sizes S L] [--repeats N] [--compile] [--dry-run]

- training: images per second of forward, backward and optimizer, and the share of the matrix peak that was
  measured just before;
- sampling: seconds of one evaluation of each segment, ours beside one scale of ours;
- peers: forward and backward beside rectified-flow-pytorch, and beside a dense mask;
- kernels: every attention backend that runs here, against float64.

--dry-run goes through all of it with small work on the CPU, whatever --sizes, --batch and --repeats say, and
writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.measure import interleaved, table, write
from benchmarks.networks import dense, inputs, ours, rectified_flow_pytorch
from lapflow.backends.attention import SDPA, Flash, Flex, Xformers
from lapflow.core.attention import AttentionBackend
from lapflow.models import MoTDiT

STARTS = {1: (0.0,), 2: (0.0, 0.5), 3: (0.0, 0.33, 0.67)}


@dataclass(frozen=True)
class Stage:
    """Where, and with how much work: pairs (side of the latents, K), the side of the matrices of the peak,
    images in a batch, rounds."""

    device: str
    work: tuple[tuple[int, int], ...]
    matrix: int
    batch: int
    repeats: int
    compiled: bool

    def place(self, model: nn.Module) -> nn.Module:
        model = model.to(self.device)
        if self.compiled:
            model.compile(fullgraph=True)
        return model

    def half(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["S", "L"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if options.dry_run:
        stage = Stage("cpu", ((8, 1), (8, 2), (16, 1), (16, 3)), 64, 4, 1, options.compile)
    elif torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        stage = Stage(
            "cuda",
            ((32, 1), (32, 2), (64, 1), (64, 3)),
            8192,
            options.batch,
            options.repeats,
            options.compile,
        )
    else:
        raise SystemExit("benchmarks.gpu: no CUDA device is here; nothing was measured")
    rectified_flow_pytorch(*stage.work[1])  # ends here, not after an hour, where it is not installed
    peak = matrix_peak(stage)
    rows = [{"work": f"matrix product {stage.matrix}, bf16", "TFLOP/s": peak / 1e12}]
    for size in ["dry run"] if options.dry_run else options.sizes:
        rows += sampling(size, stage)
        rows += training(size, stage, peak)
        rows += peers(size, stage)
    found = kernels(stage)
    if options.dry_run:
        print(table(rows), table(found), "A dry run on the CPU: nothing was measured.", sep="\n\n")
    else:
        write("gpu", rows, kernels=found)


def matrix_peak(stage: Stage) -> float:
    """FLOP/s of a bf16 product of two square matrices."""
    a = torch.randn(stage.matrix, stage.matrix, device=stage.device, dtype=torch.bfloat16)
    return (
        2
        * stage.matrix**3
        / interleaved({"product": lambda: a @ a}, stage.repeats, device=stage.device)["product"]
    )


def sampling(size: str, stage: Stage) -> list[dict[str, object]]:
    works: dict[str, Callable[[], object]] = {}
    for side, levels in stage.work:
        model = stage.place(ours(side, levels, size))
        state, t, labels = inputs(side, levels, stage.batch, stage.device)
        for n in range(1, levels + 1):
            part = dict(itertools.islice(state.items(), n))
            works[f"{side} {levels} {n}"] = lambda m=model, s=part, t=t, y=labels: _evaluate(
                stage, m, s, t, y
            )  # type: ignore[misc]
    seconds = interleaved(works, stage.repeats, device=stage.device)
    rows: list[dict[str, object]] = []
    for side, levels in stage.work:
        ends = [*STARTS[levels][1:], 1.0]
        mean = sum(
            (end - start) * seconds[f"{side} {levels} {n + 1}"]
            for n, (start, end) in enumerate(zip(STARTS[levels], ends))
        )
        rows.append(
            {
                **_about("evaluation, mean over t", size, side, levels, stage.batch),
                "compiled": stage.compiled,
                "ms": 1e3 * mean,
                "samples per second at 40": stage.batch / 40 / mean,
                "of one scale": mean / seconds[f"{side} 1 1"],
            }
        )
    return rows


def _about(work: str, size: str, side: int, levels: int, batch: int) -> dict[str, object]:
    return {"work": work, "size": f"{size}/2", "latents": f"{side}x{side}x4", "K": levels, "batch": batch}


def _evaluate(stage: Stage, model: nn.Module, *given: object) -> None:
    with torch.no_grad(), stage.half():
        model(*given)


def training(size: str, stage: Stage, peak: float) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for side, levels in stage.work:
        model = stage.place(ours(side, levels, size))
        assert isinstance(model, MoTDiT)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        given = inputs(side, levels, stage.batch, stage.device)
        if stage.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step = {"step": lambda m=model, o=optimizer, g=given: _step(stage, m, o, g)}
        seconds = interleaved(step, stage.repeats, device=stage.device)["step"]
        flops = 6 * stage.batch * sum(model.multiply_adds(range(levels)).values())
        speed = {
            "ms": 1e3 * seconds,
            "images per second": stage.batch / seconds,
            "of the matrix peak": flops / seconds / peak,
        }
        about = {**_about("training step", size, side, levels, stage.batch), "compiled": stage.compiled}
        rows.append(
            {**about, **speed, "peak GiB": torch.cuda.max_memory_allocated() / 2**30}
        )  # 0 in a dry run
        del model, optimizer, step
        torch.cuda.empty_cache()
    return rows


def _step(stage: Stage, model: MoTDiT, optimizer: torch.optim.Optimizer, given: tuple[object, ...]) -> None:
    _gradient(stage, model, given)
    optimizer.step()


def peers(size: str, stage: Stage) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    batch = stage.batch // 4
    for side, levels in (stage.work[1], stage.work[3]):
        state, t, labels = inputs(side, levels, batch, stage.device)
        networks = {
            "lapflow": ours(side, levels, size),
            "dense mask": dense(side, levels, size),
            "rectified-flow-pytorch": rectified_flow_pytorch(side, levels, size),
        }
        works: dict[str, Callable[[], None]] = {}
        for name, network in networks.items():
            network.to(stage.device)
            given = (
                (list(state.values()), t, labels) if name == "rectified-flow-pytorch" else (state, t, labels)
            )
            works[name] = lambda n=network, g=given: _gradient(stage, n, g)  # type: ignore[misc]
        seconds = interleaved(works, stage.repeats, device=stage.device)
        mine = seconds.pop("lapflow")
        row = {**_about("forward + backward", size, side, levels, batch), "ms": 1e3 * mine}
        rows += [{**row, "peer": name, "peer / lapflow": s / mine} for name, s in seconds.items()]
        del networks, works
        torch.cuda.empty_cache()
    return rows


def _gradient(stage: Stage, network: nn.Module, given: tuple[object, ...]) -> None:
    network.zero_grad(set_to_none=True)
    with stage.half():
        found = network(*given)
        values = found["main"].values() if isinstance(found, dict) else found
        loss = torch.stack([x.float().square().mean() for x in values]).sum()
    loss.backward()


def kernels(stage: Stage) -> list[dict[str, object]]:
    """Every backend that runs here in bf16: its largest error against float64, relative to the largest value,
    or why not."""
    q, k, v = (torch.randn(4, 6, n, 64, device=stage.device, dtype=torch.bfloat16) for n in (256, 320, 320))
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

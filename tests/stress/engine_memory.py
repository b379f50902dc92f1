"""What a process really takes under an engine, beside what the engine says that it holds (`Engine.held`), on
a CPU.

    python -m torch.distributed.run --standalone --nproc-per-node 2 tests/stress/engine_memory.py '{name:
    torch, device: cpu}'

Five linear layers of 9 million weights each, one sample, so that activations are nothing. Measured: the most
resident memory of the first process in its third step (the kernel's VmHWM), above what it had before the
network was made. Linux only.
"""

import os
import sys
from pathlib import Path

import torch
import yaml
from torch import nn

from lapflow.plugins import create
from lapflow.training.ema import EMA

WIDTH = 3000


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last = (
            nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4)),
            nn.Linear(WIDTH, WIDTH),
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.last(x)


def resident(name: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` the most since the last reset."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    spec = yaml.safe_load(sys.argv[1])
    engine = create("engine", spec)
    engine.start()
    (
        torch.randn(9, 9, requires_grad=True) @ torch.randn(9, 9)
    ).sum().backward()  # what torch loads when it first computes
    torch.distributed.all_reduce(torch.randn(9))
    before, network = resident("VmRSS"), Network()
    stated = engine.held(network, list(network.layers), torch.distributed.get_world_size())
    call = engine.prepare(
        network,
        lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
        grad_clip_norm=1.0,
        units=list(network.layers),
    )
    average = EMA(engine.shards(), 0.99)
    for _ in range(3):
        Path("/proc/self/clear_refs").write_text("5")
        engine.backward(call([(torch.randn(1, WIDTH),)])[0].square().mean())
        engine.step(1e-3)
        average.update(engine.shards())
    took, says = resident("VmHWM") - before, sum(h.bytes for h in stated.values())
    if engine.rank == 0:
        print(
            f"{spec}: {took / 1e6:.0f} MB measured, {says / 1e6:.0f} MB stated, {says / took:.2f}", flush=True
        )
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()

"""What keeping a caption's keys and values saves: `python -m benchmarks.given`, both ways in turn."""

from __future__ import annotations

import argparse
import json
import time

import torch

from lapflow.config.building import build_conditioner, build_dataset, build_flow, build_model
from lapflow.config.loading import load_config
from lapflow.core.backbone import Backbone
from lapflow.core.condition import Condition
from lapflow.flows.flow import Flow
from lapflow.sampling import sample
from lapflow.solvers import Euler


def seconds(flow: Flow, model: Backbone, given: Condition, shape: tuple[int, ...], steps: int) -> float:
    """Of one guided sampling."""
    generator, start = torch.Generator().manual_seed(0), time.perf_counter()
    batch = (len(given.tensors()[0]), *shape)
    sample(flow, model, batch, condition=given, solver=Euler(steps=steps), guidance=1.5, generator=generator)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = load_config("lapflow-captions-digits")
    flow, dataset = build_flow(config), build_dataset(config)
    conditioner = build_conditioner(config, ())
    model = build_model(config, flow, dataset.shape, conditioner.parts()).eval()
    captions = [dataset.read("test", i).annotations["caption"] for i in range(options.batch)]
    given, prepare = conditioner({"caption": captions}), model.prepare
    found: dict[str, list[float]] = {"kept": [], "recomputed": []}
    for _ in range(options.rounds + 1):  # the first warms up
        for way, function in (("kept", prepare), ("recomputed", lambda condition: condition)):
            setattr(model, "prepare", function)
            found[way].append(seconds(flow, model, given, dataset.shape, options.steps))
    least = {way: round(min(times[1:]), 3) for way, times in found.items()}
    print(json.dumps({**least, "threads": torch.get_num_threads(), **vars(options)}))


if __name__ == "__main__":
    main()

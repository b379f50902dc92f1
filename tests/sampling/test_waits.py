"""No solver with fixed steps makes the CPU wait for the device, and a training step does so once, for the
gradient's norm.

The device is torch's meta, which has shapes and no numbers: to read one raises, where the CPU would wait for
a GPU. A copy to the device that is not queued (`non_blocking`) waits too, and is seen by a dispatch mode.
"""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode  # private: nothing public sees each operation

import lapflow.recipes
from lapflow.config.building import build
from lapflow.config.loading import load_config
from lapflow.data.loader import Batches
from lapflow.sampling.sampler import sample
from lapflow.solvers import fixed_step
from lapflow.training.step import TrainingStep, _loss
from lapflow.util.random import keyed_generator

META = torch.device("meta")
RECIPES = sorted(path.stem for path in Path(lapflow.recipes.__file__).parent.glob("*-digits.yaml"))
FIXED = [
    *(
        (name, "sampling.solver.steps=5") for name in RECIPES if name != "lfm-digits"
    ),  # whose solver chooses its steps
    ("ldm-digits", "sampling.solver={name: ddim, steps: 5, eta: 0.5}"),
    ("relay-digits", "sampling.solver={name: heun-edm, steps: 5}"),
    ("relay-digits", "sampling.solver={name: ddpm, steps: 5}"),
]
READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal")


class Seen(TorchDispatchMode):
    """`copies` from the CPU to meta that are not queued, by shape, and how many `reads` there are of any
    device."""

    def __init__(self):
        super().__init__()
        self.copies, self.reads = Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (name := func.overloadpacket.__name__) in ("copy_", "_to_copy", "to"):
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
            source = given["src" if name == "copy_" else "self"]
            if source.device.type == "cpu" and out.device == META and not given.get("non_blocking"):
                self.copies[tuple(source.shape)] += 1
        self.reads += name in READS
        return out


@pytest.mark.parametrize("inference", [False, True])
def test_what_would_wait_is_seen(inference):
    x, on_meta = torch.ones(3), torch.ones(3, device=META)
    with Seen() as seen, torch.inference_mode(inference):
        x.to(META), x.to(META, non_blocking=True), on_meta.copy_(x), on_meta.copy_(x, non_blocking=True)
        x.sum().item(), bool(x[0])
    assert seen.copies == {(3,): 2}
    assert seen.reads == 2
    with pytest.raises(RuntimeError, match="meta"):
        bool(on_meta[0] > 0)


@pytest.mark.parametrize(("recipe", "solver"), FIXED)
def test_sampling_never_waits(monkeypatch, recipe, solver):
    """But for one look at the state at the end of a segment."""
    config = load_config(recipe, ["attention=sdpa", "sampling.guidance.scale=2", solver])
    parts, looks = build(config), []
    monkeypatch.setattr(fixed_step, "require_finite", lambda state, segment: looks.append(segment.index))
    model = parts.model.to(META)
    said = [parts.dataset.read("train", i).annotations for i in range(2)]
    asked = {name: [one[name] for one in said] for name in parts.conditioner.needs}
    with Seen() as seen:
        images = sample(
            parts.flow,
            model,
            (2, *parts.shape),
            condition=parts.conditioner(asked),
            solver=parts.solver,
            guidance=parts.guidance,
        )
    assert images.device == META
    assert looks == list(range(len(parts.flow.segments)))
    assert not seen.copies


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_loss_and_its_gradient_never_wait(recipe):
    config = load_config(recipe, ["attention=sdpa", "flow.intervals.segment_sampling=sample"])
    parts = build(config)
    batch = next(iter(Batches(parts.dataset, "train", seed=0, batch_size=4)))
    parts.engine.device = META
    model = parts.model.to(META)
    parts.build_objective()
    with Seen() as seen:
        loss, _ = _loss(parts, TrainingStep(model, parts.objective), batch, keyed_generator(0, "stage"))
        loss.backward()
    assert loss.device == META
    assert not seen.copies


@pytest.mark.parametrize("grad_clip_norm", [None, 0.1])
def test_a_step_waits_once(grad_clip_norm):
    parts = build(load_config("lapflow-digits", ["model.depth=1", "model.width=32", "model.heads=2"]))
    parts.engine.start()
    parts.engine.prepare(
        parts.model, lambda p: parts.optimizer.build(p, (), 1e-3), grad_clip_norm=grad_clip_norm
    )
    for p in parts.model.parameters():
        p.grad = torch.ones_like(p)
    with Seen() as seen:
        parts.engine.step(1e-3)
    parts.engine.stop()
    assert seen.reads == 1

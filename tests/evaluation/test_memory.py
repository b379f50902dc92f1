"""The estimated memory against what training and sampling really take on a CPU, and against the
parameters."""

import json

import pytest
import torch
from torch import nn
from torch.profiler import profile

from lapflow import register
from lapflow.backends.engines import TorchEngine
from lapflow.cli.cost_tables import memory_words
from lapflow.config.building import build
from lapflow.config.loading import load_config
from lapflow.core.backbone import Backbone, Condition
from lapflow.core.errors import ConfigError
from lapflow.core.live_bytes import LiveBytes
from lapflow.data.loader import Batches
from lapflow.evaluation.memory import memory
from lapflow.plugins import registry
from lapflow.sampling.sampler import sample
from lapflow.training.activation_checkpointing import checkpoint_activations
from lapflow.training.loop import _loss, _optimizer
from lapflow.util.random import keyed_generator
from tests.backends.launching import torchrun

BATCH = 16
SMALL = [
    "training.batch_size=16",
    "sampling.batch_size=16",
    "model.depth=4",
    "model.width=160",
    "model.heads=4",
    "sampling.solver.steps=1",
]
BALANCED = ["flow.intervals.segment_sampling=balanced"]
NETWORKS = {
    "K = 1": ["lapflow-k1-digits", *SMALL],
    "K = 2": ["lapflow-k2-digits", *SMALL, *BALANCED],
    "K = 2, one segment a step": ["lapflow-k2-digits", *SMALL, "flow.intervals.segment_sampling=batch"],
    "K = 3": ["lapflow-k3-digits", *SMALL, *BALANCED, "model.width=128"],
    "K = 3, shared": ["lapflow-k3-digits", *SMALL, *BALANCED, "model.experts=shared", "model.width=192"],
    "separate": ["lapflow-separate-digits", *SMALL, *BALANCED],
    "merged": [
        "lapflow-k2-digits",
        *SMALL,
        *BALANCED,
        "flow.representation=merged",
        "model.patch=[1,2]",
        "model.mask=none",
    ],
    "K = 2, 32x32": ["lapflow-glyphs", *SMALL, *BALANCED, "model.width=192"],
    "U-Net": ["ldm-digits", "training.batch_size=16", "sampling.batch_size=16", "sampling.solver.steps=1"],
}
OURS = [name for name in NETWORKS if name != "U-Net"]


def peak(run):
    """The most bytes that `run` had allocated at once, of those it allocated: every allocation and release on
    the CPU, as torch's allocator reports them to the profiler. What was there before, such as weights and
    gradients, is not counted."""
    with profile(profile_memory=True) as profiler:
        run()
    events = [
        (e.start_ns(), e.nbytes())
        for e in profiler.profiler.kineto_results.events()
        if e.name() == "[memory]"
    ]
    total = most = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        total += size
        most = max(most, total)
    return most


def settings(name, *more):
    recipe, *overrides = NETWORKS[name]
    return load_config(recipe, [*overrides, *more])


def own(found):
    """The estimate for what the config names."""
    return next(a.bytes for a in found if a.own)


def measured_step(config):
    """The largest peak of a few training steps, forward and backward, through the training loop's own loss.
    Unlike in a run the gradients are there before: the engine makes them in the backward pass, and the
    estimate counts them apart."""
    parts = build(config)
    parts.engine.start()
    model = parts.engine.prepare(parts.model, _optimizer(config))
    if config.training.activation_checkpointing:
        checkpoint_activations(parts.model, config.training.activation_checkpointing)
    batches = iter(Batches(parts.dataset, "train", seed=0, batch_size=BATCH))
    found = []
    for step in range(4):
        batch, stage = next(batches), keyed_generator(config.seed, "stage", step)

        def run(batch=batch, stage=stage):
            parts.engine.backward(_loss(parts, model, batch, stage)[0])

        for p in parts.model.parameters():  # gradients are counted apart
            p.grad = torch.zeros_like(p)
        found.append(peak(run))
        parts.engine.step(1e-4)
    parts.engine.stop()
    return max(found)


def both(name):
    """{(precision, recompute): (estimated, measured)} of a training step."""
    found = {}
    for estimate in memory(settings(name)).training:
        again = str(estimate.recompute).lower()
        config = settings(
            name, f"engine.precision={estimate.precision}", f"training.activation_checkpointing={again}"
        )
        found[estimate.precision, estimate.recompute] = estimate.bytes, measured_step(config)
    return found


@pytest.mark.parametrize("name", OURS)
def test_activations_of_a_training_step_are_those_measured(name):
    """Within 15 %, in both precisions, whatever is recomputed. The estimate leaves out the images and what
    the flow makes of them."""
    found = both(name)
    assert set(found) == {
        (precision, again) for precision in ("fp32", "bf16") for again in (False, "cheap", True)
    }
    for case, (estimated, measured) in found.items():
        assert estimated == pytest.approx(measured, rel=0.15), case


def test_activations_of_the_u_net_are_those_measured():
    """A network that states no formula for them. Its convolutions' scratch memory, which no tensor holds, is
    the difference."""
    for case, (estimated, measured) in both("U-Net").items():
        assert estimated == pytest.approx(measured, rel=0.15), case


def test_what_is_marked_as_the_config_s_is():
    found = memory(settings("K = 2", "engine.precision=bf16", "training.activation_checkpointing=true"))
    assert [(a.precision, a.recompute) for a in found.training if a.own] == [("bf16", True)]
    assert [a.precision for a in found.sampling if a.own] == ["bf16"]


@pytest.mark.parametrize("scale", [1.0, 2.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("name", OURS)
def test_activations_of_sampling_are_those_measured(name, scale):
    config = settings(name, f"sampling.guidance.scale={scale}")
    parts = build(config)
    parts.model.requires_grad_(False)
    labels = torch.zeros(BATCH, dtype=torch.int64)

    def run():
        sample(
            parts.flow,
            parts.model,
            (BATCH, *parts.shape),
            labels=labels,
            solver=parts.solver,
            guidance=parts.guidance,
        )

    run()
    assert own(memory(config).sampling) == pytest.approx(peak(run), rel=0.15)


def test_activations_grow_with_the_batch_and_shrink_by_recomputing():
    small, middle, large = (memory(settings("K = 2"), batch=n) for n in (16, 32, 64))
    a, b, c = (own(found.training) for found in (small, middle, large))
    assert c - b == pytest.approx(
        2 * (b - a), rel=0.01
    )  # a part that does not grow, such as the gradient of a weight, is on top
    assert own(large.sampling) < own(large.training)
    assert own(middle.sampling) == pytest.approx(2 * own(small.sampling), rel=1e-3)
    assert own(large.sampling) == pytest.approx(2 * own(middle.sampling), rel=1e-3)
    by = {a.recompute: a.bytes for a in small.training if a.precision == "fp32"}
    assert by["cheap"] < 0.7 * by[False]
    assert by[True] < 0.5 * by[False]


def test_nothing_of_that_size_is_allocated_and_no_random_number_is_drawn():
    config = load_config("lapflow-celebahq256", ["data.root=nowhere"])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert peak(lambda: memory(config, batch=8)) < 1e7
    assert torch.equal(torch.get_rng_state(), before)


def test_live_bytes_are_those_of_storages_that_something_holds():
    weight = torch.randn(100, 100, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    with LiveBytes() as live:
        x = weight.t() * 2  # 40,000 bytes; the view has none of its own
        x.mul_(1.0)
        assert live.live == 40_000
        y = (x * x).sum()  # keeps the product's factor alone
        assert live.live == 40_004
        del x
        assert live.live == 40_004, "held by the graph"
        y.backward()
        del y
        assert live.live == 0
        assert live.peak >= 80_004


# ------------------------------------------------------------------ what the engines hold


def test_one_process_holds_weights_gradients_moments_and_average():
    config = settings("K = 2")
    parts = build(config)
    parts.engine.start()
    parts.engine.prepare(parts.model, _optimizer(config))
    parameters, gradients, take = list(parts.model.parameters()), [], parts.engine.optimizer.step

    def step():
        gradients.append(sum(p.grad.nbytes for p in parameters))
        take()

    parts.engine.optimizer.step = step
    parts.engine.step(1e-4)
    held = memory(config).held
    assert set(held) == {"weights", "gradients", "moments", "average"}
    assert held["weights"].bytes == sum(p.nbytes for p in parameters)
    assert [held["gradients"].bytes] == gradients
    state = [x for of in parts.engine.optimizer.state.values() for key, x in of.items() if key != "step"]
    assert held["moments"].bytes == sum(x.nbytes for x in state)
    assert "average" not in memory(settings("K = 2", "training.ema_decay=null", "sampling.weights=raw")).held
    parts.engine.stop()


def test_kept_and_step_are_sums():
    found = memory(settings("K = 2"))
    assert found.kept == sum(h.bytes for h in found.held.values())
    assert found.step == found.kept + own(found.training)


ENGINES = {
    "ddp": {"name": "torch", "device": "cpu"},
    "fsdp2": {"name": "torch", "device": "cpu", "parallel": "fsdp2"},
    **{f"zero{n}": {"name": "deepspeed", "device": "cpu", "zero": n} for n in (0, 1, 2, 3)},
    "zero3-offload": {"name": "deepspeed", "device": "cpu", "zero": 3, "offload": True},
}


@pytest.mark.xdist_group("engines")
def test_each_of_two_processes_holds_what_its_engine_says(tmp_path):
    """Live tensors of the first process after two steps (gradients: before the step), for every engine;
    DeepSpeed pads its parts."""
    pytest.importorskip("deepspeed")
    process = torchrun("tests.evaluation.holding", json.dumps(ENGINES), tmp_path / "held.json")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-4000:]
    for name, row in json.loads((tmp_path / "held.json").read_text()).items():
        for part, size in row["found"].items():
            assert size <= row["stated"][part] + 128, f"{name}: {part} is larger than stated"
            assert size >= row["stated"][part] - 128, f"{name}: {part} is smaller than stated"


def test_the_processes_divide_what_the_engine_divides():
    config = load_config(
        "lapflow-k2-digits", [*SMALL, *BALANCED, "engine={name: deepspeed, zero: 2, offload: true}"]
    )
    one, four = memory(config), memory(config, processes=4)
    assert four.share == 4
    assert four.held["moments"].bytes == pytest.approx(one.held["moments"].bytes / 4, rel=1e-3)
    assert four.held["moments"].offloaded
    assert four.held["weights"].bytes == one.held["weights"].bytes
    assert four.kept == sum(h.bytes for h in four.held.values() if not h.offloaded)


def test_an_engine_that_is_not_installed_is_estimated_all_the_same(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "deepspeed", None)
    found = memory(
        load_config("lapflow-k2-digits", [*SMALL, *BALANCED, "engine={name: deepspeed, zero: 3}"]),
        processes=2,
    )
    assert found.held["weights"].divided


# ------------------------------------------------------------------ what cannot be estimated, and mistakes


@pytest.fixture
def reads_numbers(monkeypatch):
    """A network that looks at its input's numbers, which stand-ins do not have."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    @register(name="reads-numbers")
    class ReadsNumbers(Backbone):
        def __init__(self, bands, num_classes=0, attention="auto") -> None:
            super().__init__()
            self.num_classes, self.weight = num_classes, nn.Parameter(torch.ones(3))

        def forward(self, state, t, condition: Condition | None = None):
            factor = self.weight.sum() if float(t[0]) > 0.5 else self.weight[0]
            return {"main": {k: x * factor for k, x in state.items()}}

        def multiply_adds(self, scales):
            return {"linear": 1}


def test_a_network_that_cannot_be_followed_is_said_so(reads_numbers):
    found = memory(load_config("lapflow-k2-digits", ["model=reads-numbers"]))
    assert found.training is found.sampling is found.step is None
    assert found.reason in memory_words(found)
    assert found.held["weights"].bytes == 12


@pytest.mark.parametrize(
    ("overrides", "asked", "said"),
    [
        ([], {"batch": 0}, "batch is too small"),
        ([], {"processes": 0}, "number of processes is too small"),
        ([], {"batch": 10, "processes": 4}, "does not divide"),
        (BALANCED, {"batch": 4, "processes": 4}, "does not divide"),
        (
            ["engine.parallel=fsdp2", "flow.intervals.segment_sampling=sample"],
            {"processes": 2},
            "the same segments",
        ),
    ],
)
def test_numbers_that_make_no_sense(overrides, asked, said):
    with pytest.raises(ConfigError, match=said):
        memory(load_config("lapflow-k2-digits", [*SMALL, *overrides]), **asked)


def test_an_engine_that_says_nothing_leaves_the_rest(monkeypatch):
    monkeypatch.setattr(TorchEngine, "held", lambda engine, model, units, processes: None)
    found = memory(settings("K = 1"))
    assert found.held is found.kept is found.step is None
    assert own(found.training) > 0
    assert "does not say" in memory_words(found)

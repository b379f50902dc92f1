"""Stated multiply-adds of whole compositions against those that PyTorch counts, and against what is
published."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lapflow.analysis.flops import cost, seen
from lapflow.config.building import build
from lapflow.config.loading import load_config
from lapflow.core.errors import ConfigError
from lapflow.sampling.sampler import sample

MERGED = ["lapflow-k2-digits", "flow.representation=merged", "model.patch=[1,2]"]
COMPOSITIONS = [
    *([f"lapflow-k{k}-digits"] for k in (1, 2, 3, 4)),
    ["lapflow-separate-digits"],
    ["lapflow-separate-digits", "model.mask=none"],
    ["lapflow-k3-digits", "model.experts=shared", "model.mask=self"],
    MERGED,
    [*MERGED, "model.experts=shared"],
    ["ldm-digits"],
    ["pyramidal-flow-digits"],
    ["edify-digits"],
    ["cascaded-digits"],
]


def counted(run):
    """Multiply-adds of `run`, from torch's counter, which sees attention's products in the math kernel
    only."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("composition", COMPOSITIONS, ids=" ".join)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_sample_costs_what_the_real_sampler_is_counted_to_do(composition, guidance):
    """The whole sampler, its own number of evaluations included; within 1 %, embeddings of t and the flow's
    filters counted too."""
    steps = 3 if "edify" in composition[0] else 2
    config = load_config(
        composition[0],
        [
            *composition[1:],
            f"sampling.solver.steps={steps}",
            f"sampling.guidance.scale={guidance}",
            "sampling.guidance.interval=[0,0.6]",
        ],
    )
    parts, found = build(config), cost(config)
    labels = torch.tensor([3])
    got = counted(
        lambda: sample(
            parts.flow,
            parts.model,
            (1, *parts.shape),
            condition=labels,
            solver=parts.solver,
            guidance=parts.guidance,
        )
    )
    assert found.guided_sample == pytest.approx(got, rel=0.01)
    assert (found.guided_sample > found.sample) == (guidance > 1)


@pytest.mark.parametrize(
    "name",
    [
        "lapflow-celebahq256",
        "lapflow-k3-celebahq256",
        "lapflow-k4-celebahq256",
        "lapflow-separate-celebahq256",
        "ldm-celebahq256",
    ],
)
def test_an_evaluation_of_the_paper_s_networks_in_each_segment(name):
    """On the meta device, where nothing is allocated."""
    config = load_config(name)
    parts = build(config, "meta")
    bands = parts.flow.network_bands(parts.shape)
    for segment, stated in zip(parts.flow.segments, cost(config).segments, strict=True):
        state = {k: torch.empty(1, *bands[k].shape, device="meta") for k in seen(parts.flow, segment)}
        with torch.no_grad():
            got = counted(lambda state=state: parts.model(state, torch.empty(1, device="meta")))
        assert stated.total == pytest.approx(got, rel=0.01)


def test_published_ratios():
    """L/2 single-scale 80.7 G; K = 2 .7475 without modulation, .7489 with (published: .7466); K = 3 .557."""
    found = cost(load_config("lapflow-celebahq256"))
    assert found.single_scale == pytest.approx(80.7e9, rel=5e-4)
    assert found.ratio_of(("linear", "attention")) == pytest.approx(0.7475, abs=5e-5)
    assert found.ratio_to_single_scale == pytest.approx(0.7489, abs=5e-5)
    assert cost(load_config("lapflow-k3-celebahq256")).ratio_of(("linear", "attention")) == pytest.approx(
        0.557, abs=5e-4
    )


def test_a_sample_of_unequal_segments_is_not_the_mean_over_t():
    found = cost(
        load_config("lapflow-k2-digits", ["flow.intervals.starts=[0,0.7]", "sampling.solver.steps=[3,5]"])
    )
    coarse, both = (s.total for s in found.segments)
    assert found.evaluations == 8
    assert found.sample == 3 * coarse + 5 * both
    assert found.mean == pytest.approx(0.7 * coarse + 0.3 * both)
    assert found.sample_to_single_scale == pytest.approx(found.sample / (8 * found.single_scale))


def test_guidance_counts_where_it_is_active_and_there_are_classes():
    guided = ["sampling.guidance.scale=2", "sampling.guidance.interval=[0.5,1]"]
    digits = cost(load_config("lapflow-k2-digits", [*guided, "sampling.solver={name: euler, steps: 4}"]))
    assert [s.guided for s in digits.segments] == [0, 4]
    faces = cost(load_config("lapflow-celebahq256", [*guided, "sampling.solver={name: euler, steps: 4}"]))
    assert faces.guided_sample == faces.sample


def test_an_adaptive_solver_leaves_a_sample_open():
    found = cost(load_config("lfm-digits"))
    assert found.evaluations is found.sample is found.guided_sample is None
    assert found.document()["ratio_to_single_scale"] == 1


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="every segment"):
        cost(load_config("lapflow-k2-digits", ["sampling.solver.steps=[1,2,3]"]))
    with pytest.raises(ConfigError, match="every scale"):
        cost(load_config("lapflow-k2-digits", ["sampling.guidance.scale=[1.0,2.0,3.0]"]))


def test_networks_that_read_all_tokens_are_as_many_evaluations_as_scales():
    """The count behind 1.374, against the separate networks' own where nothing is masked and modulation is
    left out."""
    shared = cost(load_config("lapflow-celebahq256", ["model.experts=shared", "model.mask=none"]))
    separate = cost(load_config("lapflow-separate-celebahq256", ["model.mask=none"]))
    parts = ("linear", "attention")
    assert shared.ratio_of(parts, per_scale=True) == pytest.approx(separate.ratio_of(parts), rel=1e-4)

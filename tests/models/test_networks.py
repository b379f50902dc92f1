"""What holds for every backbone of ours, whatever its options."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lapflow.backends.attention import SDPA, Flash, Flex
from lapflow.core.attention import AttentionBackend
from lapflow.core.condition import Condition
from lapflow.core.errors import BackendError, ConfigError, SizeError
from lapflow.models import MoTDiT, Separate
from lapflow.plugins import create
from lapflow.pyramids.wavelet import WaveletPyramid
from tests.models.builders import SMALL, inputs, laplacian, randomise, small

BANDS = laplacian(2)
ALL = [
    {"cls": MoTDiT, "experts": experts, "conditioning": conditioning}
    for experts, conditioning in itertools.product(["per-scale", "shared"], ["adaln-zero", "in-context"])
] + [{"cls": Separate, "conditioning": "adaln-zero"}, {"cls": Separate, "conditioning": "in-context"}]


@pytest.mark.parametrize("options", ALL)
def test_outputs_are_velocities_of_the_active_scales_in_their_order(options):
    model = small(BANDS, **options)
    for order in ([1], [1, 0], [0, 1]):
        state, t, labels = inputs(BANDS)
        heads = model({k: state[k] for k in order}, t, labels)
        assert list(heads) == ["main"]
        assert [(k, v.shape) for k, v in heads["main"].items()] == [(k, state[k].shape) for k in order]


@pytest.mark.parametrize("options", ALL)
@pytest.mark.parametrize("num_classes", [0, 5])
def test_every_parameter_can_learn(options, num_classes):
    model = small(BANDS, num_classes, **options)
    state, t, labels = inputs(BANDS, num_classes=num_classes)
    sum(v.square().sum() for v in model(state, t, labels)["main"].values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_an_inactive_scales_parameters_get_no_gradient():
    model = small(BANDS)
    state, t, labels = inputs(BANDS, scales=[1])
    model(state, t, labels)["main"][1].sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert not any(".0." in name.replace("blocks.0.", "").replace("mlp.0.", "") for name in touched)
    assert any("experts.1." in name for name in touched)


@pytest.mark.parametrize("options", ALL)
@pytest.mark.parametrize("mask", ["none", "self", "causal"])
def test_samples_of_a_batch_do_not_meet(options, mask):
    model = small(BANDS, mask=mask, **options).double()
    state, t, labels = inputs(BANDS, batch=4)
    state, t = {k: x.double() for k, x in state.items()}, t.double()
    whole = model(state, t, labels)["main"]
    for i in range(4):
        one = model({k: x[i : i + 1] for k, x in state.items()}, t[i : i + 1], labels[i : i + 1])["main"]
        for k in BANDS:
            torch.testing.assert_close(one[k], whole[k][i : i + 1])


@pytest.mark.parametrize("options", ALL)
def test_time_and_class_are_heard_at_every_scale(options):
    model = small(BANDS, mask="self", **options)
    state, t, labels = inputs(BANDS)
    here = model(state, t, labels)["main"]
    later, other = model(state, (t + 0.3) % 1, labels)["main"], model(state, t, (labels + 1) % 5)["main"]
    for k in BANDS:
        assert not torch.allclose(here[k], later[k], atol=1e-3)
        assert not torch.allclose(here[k], other[k], atol=1e-3)


@pytest.mark.parametrize("options", ALL)
def test_tokens_keep_their_place(options):
    """With blocks that add nothing, a pixel of the output hangs on the same pixel of the input, at patch 1,
    and no other."""
    model = small(BANDS, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".proj." in name.partition("experts")[2] or ".fc2." in name:
                parameter.zero_()
    state, t, labels = inputs(BANDS)
    before = model(state, t, labels)["main"]
    for k, (i, j) in itertools.product(BANDS, [(0, 0), (1, 3), (3, 3)]):
        moved = state[k].clone()
        moved[:, :, i, j] += 1
        changed = (model({**state, k: moved}, t, labels)["main"][k] != before[k]).any(1).any(0)
        assert changed.nonzero().tolist() == [[i, j]]


@pytest.mark.parametrize("options", ALL)
def test_no_labels_means_the_null_class(options):
    model = small(BANDS, **options)
    state, t, _ = inputs(BANDS)
    null = torch.full((3,), 5)
    for condition in (None, Condition(), Condition.of(null)):
        for k, v in model(state, t, condition)["main"].items():
            assert torch.equal(v, model(state, t, null)["main"][k])


@pytest.mark.parametrize("options", ALL)
def test_a_new_network_predicts_zero(options):
    options = dict(options)
    model = options.pop("cls")(BANDS, 5, SDPA(), **SMALL, patch=1, **options)
    state, t, labels = inputs(BANDS)
    assert not any(v.any() for v in model(state, t, labels)["main"].values())


def test_initialisation_is_dits():
    model = MoTDiT(laplacian(1, (4, 16, 16)), 500, SDPA(), depth=1, width=256, heads=4)
    weights = dict(model.transformer.named_parameters())
    assert not any(p.any() for name, p in weights.items() if name.endswith("bias"))
    assert not any(
        p.any() for name, p in weights.items() if "modulation" in name or name.startswith("finals.0.linear")
    )
    assert weights["label.table.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert weights["time.mlp.0.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    xavier = (2 / (256 + 768)) ** 0.5
    assert weights["blocks.0.experts.0.qkv.weight"].std().item() == pytest.approx(xavier, rel=0.02)
    assert weights["embeds.0.proj.weight"].abs().max().item() <= (6 / (16 + 256)) ** 0.5


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    patch=st.sampled_from([1, 2, [2, 1], [1, 2]]),
    channels=st.integers(1, 3),
    wavelet=st.booleans(),
)
def test_rectangles_patches_and_channels(rows, columns, patch, channels, wavelet):
    shape = (channels, 8 * rows, 8 * columns)
    bands = WaveletPyramid(levels=2).bands(shape) if wavelet else laplacian(2, shape)
    model = small(bands, patch=patch)
    state, t, labels = inputs(bands, batch=2)
    for k, v in model(state, t, labels)["main"].items():
        assert v.shape == state[k].shape


def test_the_outputs_dtype_follows_autocast_and_the_parameters():
    model = small(BANDS)
    state, t, labels = inputs(BANDS)
    assert model(state, t, labels)["main"][0].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert model(state, t, labels)["main"][0].dtype == torch.bfloat16
    assert copy.deepcopy(model).to(torch.bfloat16)(state, t, labels)["main"][0].dtype == torch.bfloat16
    assert copy.deepcopy(model).double()(state, t, labels)["main"][0].dtype == torch.float64


@pytest.mark.parametrize("cls", [MoTDiT, Separate])
def test_a_network_made_on_meta_becomes_a_real_one(cls):
    with torch.device("meta"):
        model = cls(BANDS, 5, SDPA(), patch=1, **SMALL)
    assert all(x.device.type == "meta" for x in [*model.parameters(), *model.buffers()])
    model.to_empty(device="cpu").reset_parameters()
    other = small(BANDS, cls=cls)
    state, t, labels = inputs(BANDS)
    want, got = other(state, t, labels)["main"], randomise(model)(state, t, labels)["main"]
    assert all(torch.equal(want[k], got[k]) for k in BANDS)


def test_position_buffers_are_not_saved():
    assert not any("position" in name for name in small(BANDS).state_dict())


# ---------------------------------------------------------------------- torch.compile


@pytest.mark.parametrize("cls", [MoTDiT, Separate])
@pytest.mark.parametrize("attention", ["sdpa", "auto"])
def test_compiles_without_a_graph_break(cls, attention):
    torch.compiler.reset()
    model = small(BANDS, cls=cls, attention=attention).double()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    state, t, labels = inputs(BANDS)
    state, t = {k: x.double() for k, x in state.items()}, t.double()
    want, got = model(state, t, labels)["main"], compiled(state, t, labels)["main"]
    for k in BANDS:
        torch.testing.assert_close(got[k], want[k])


def test_a_backend_that_cannot_run_says_so_under_compile_too():
    torch.compiler.reset()
    compiled = torch.compile(small(BANDS, attention=Flash()), backend="eager")
    with pytest.raises(Exception, match="the attention backend Flash cannot run here"):
        compiled(*inputs(BANDS))


# ---------------------------------------------------------------------- the backend's check


class Refusing(AttentionBackend):
    def attend(self, q, k, v):
        pytest.fail("the kernel was called")

    def supports(self, device, dtype, head_dim, needs_grad):
        return f"something else than {device.type}, {dtype}, {head_dim}, {needs_grad}"


@pytest.mark.parametrize("cls", [MoTDiT, Separate])
def test_a_backend_that_cannot_run_is_an_error_before_its_kernel(cls):
    model = small(BANDS, cls=cls, attention=Refusing())
    with pytest.raises(BackendError, match=r"something else than cpu, torch\.float32, 8, True"):
        model(*inputs(BANDS))
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(BackendError, match=r"torch\.bfloat16, 8, False"),
    ):
        model(*inputs(BANDS))


def test_flex_runs_without_gradients_and_is_refused_with_them():
    model = small(BANDS, attention=Flex())
    with torch.no_grad():
        model(*inputs(BANDS))
    with pytest.raises(BackendError, match="no backward on CPU"):
        model(*inputs(BANDS))


# ---------------------------------------------------------------------- bad input

MISTAKES = [
    ({"size": "Sx/2"}, ConfigError, "'S/2'"),
    ({"size": "S/0"}, ConfigError, "unknown backbone size"),
    ({"size": "S/2", "depth": 3}, ConfigError, "size already says depth"),
    ({"size": "S/2", "patch": 1}, ConfigError, "write size: S"),
    ({}, ConfigError, "no depth, width, heads"),
    ({"depth": 2}, ConfigError, "no width, heads"),
    ({"depth": 2, "width": 18, "heads": 4}, ConfigError, "16 or 20"),
    ({"depth": 2, "width": 18, "heads": 3}, ConfigError, "12 or 24"),
    ({"depth": 0, "width": 16, "heads": 4}, ConfigError, "depth"),
    ({**SMALL, "mask": "casual"}, ConfigError, "'none', 'self' or 'causal'"),
    ({**SMALL, "experts": "each"}, ConfigError, "'per-scale' or 'shared'"),
    ({**SMALL, "conditioning": "adaln"}, ConfigError, "'adaln-zero' or 'in-context'"),
    ({**SMALL, "mlp_ratio": 0}, ConfigError, "mlp_ratio"),
    ({**SMALL, "patch": [2, 2, 2]}, ConfigError, "2, coarse to fine"),
    ({**SMALL, "patch": 0}, ConfigError, "at least one pixel"),
    ({**SMALL, "patch": [1, 0]}, ConfigError, "at least one pixel"),
    ({**SMALL, "patch": 3}, SizeError, "multiple of 6, for instance 6 or 12"),
    ({**SMALL, "patch": 8}, SizeError, "multiple of 16, for instance 16"),
    ({**SMALL, "pach": 2}, ConfigError, "'patch'"),
    ({**SMALL, "attention": "spda"}, ConfigError, "'sdpa'"),
]


@pytest.mark.parametrize(("options", "error", "message"), MISTAKES)
def test_bad_options_are_one_clear_error(options, error, message):
    with pytest.raises(error, match=message):
        MoTDiT(BANDS, 5, options.pop("attention", SDPA()), **options)


def test_separate_models_have_no_option_experts():
    with pytest.raises(ConfigError, match="Separate has no key 'experts'"):
        Separate(BANDS, 5, SDPA(), **SMALL, experts="shared")
    with pytest.raises(ConfigError, match="has no key 'experts'"):
        create("backbone", {"name": "separate", **SMALL, "experts": "shared"}, bands=BANDS)


def test_patch_and_size_go_together_when_the_size_names_no_patch():
    with torch.device("meta"):
        model = MoTDiT(laplacian(2, (4, 32, 32)), 10, SDPA(), size="S", patch=[1, 2])
    assert {k: model.transformer.embeds[str(k)].tokens for k in (1, 0)} == {1: 256, 0: 256}


@pytest.mark.parametrize("cls", [MoTDiT, Separate])
def test_wrong_states_are_one_clear_error(cls):
    model = small(laplacian(3), cls=cls)
    state, t, labels = inputs(laplacian(3))
    for scales in ([], [1, 0], [2, 0]):
        with pytest.raises(ConfigError, match="active scales"):
            model({k: state[k] for k in scales}, t, labels)
    with pytest.raises(ConfigError, match="active scales"):
        model({**state, 3: state[2]}, t, labels)
    with pytest.raises(SizeError, match="scale 1"):
        model({**state, 1: state[0]}, t, labels)


@pytest.mark.parametrize("cls", [MoTDiT, Separate])
def test_an_unconditional_network_refuses_labels(cls):
    free = small(BANDS, 0, cls=cls)
    state, t, labels = inputs(BANDS)
    free(state, t)
    with pytest.raises(ConfigError, match="unconditional"):
        free(state, t, labels)


@pytest.mark.parametrize("cls", [MoTDiT, Separate])
def test_a_network_says_beforehand_where_its_kernel_cannot_run(cls):
    small(BANDS, cls=cls).require(torch.device("cpu"), torch.float32, needs_grad=True)
    with pytest.raises(BackendError, match="no gradients"):
        small(BANDS, cls=cls, attention=Flex()).require(torch.device("cpu"), torch.float32, needs_grad=True)


def test_the_config_rebuilds_the_network():
    model = MoTDiT(BANDS, 5, SDPA(), **SMALL, patch=[2, 1], mask="self")
    again = MoTDiT(BANDS, 5, SDPA(), **model.config)
    assert again.config == model.config
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]

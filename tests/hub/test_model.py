"""The backbone as a model of diffusers."""

import pytest
import torch

from tests.hub.builders import loaded_run, model

pytest.importorskip("diffusers")

from lapflow.config.building import build_flow, build_model
from lapflow.config.loading import resolved
from lapflow.core.condition import num_classes
from lapflow.core.errors import CheckpointError, ConfigError
from lapflow.hub import LapFlowModel
from lapflow.objectives import MSE
from tests.support import images, seeded


@pytest.fixture(scope="module")
def digits():
    return model(loaded_run())


def test_it_is_lapflow_s_own_network(digits):
    """The same weights in a network that lapflow builds from the same config give the same output and the
    same loss."""
    config = loaded_run().config
    flow = build_flow(config)
    network = build_model(config, flow, (1, 8, 8), 10).eval()
    network.load_state_dict(digits.network.state_dict())
    x, labels = images(4, 1, 8, 8, dtype=torch.float32), torch.tensor([0, 1, 2, 10])
    losses = []
    for mathematics, called in ((flow, network), (digits.flow, digits)):
        points = mathematics.training_points(x, seeded(3), condition=labels)
        losses.append(sum(loss * p.fraction for p in points for loss in MSE()(called, p).values()))
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(digits.parameters(), network.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
    digits.zero_grad()


def test_its_config_is_lapflow_s(digits):
    assert digits.config.lapflow == resolved(loaded_run().config)
    assert (digits.config.shape, digits.config.step, digits.config.weights) == ([1, 8, 8], 7, "ema")
    assert num_classes(digits.condition) == 10
    assert digits.dtype == torch.float32
    assert digits.num_parameters() == sum(p.numel() for p in digits.network.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_is_loaded_in_any_type(digits, tmp_path, dtype):
    """Weights are what casting gives, and the network's own tables are computed in float32 first."""
    digits.save_pretrained(tmp_path)
    loaded = LapFlowModel.from_pretrained(tmp_path, torch_dtype=dtype)
    assert torch.get_default_dtype() == torch.float32
    expected = {**dict(digits.named_parameters()), **dict(digits.named_buffers())}
    found = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    assert found.keys() == expected.keys()
    assert all(
        value.dtype == dtype and torch.equal(value, expected[name].to(dtype)) for name, value in found.items()
    )


def test_a_plain_config_makes_a_new_one():
    """For training: `step` and `weights` have defaults; the config may be as short as a recipe's."""
    made = LapFlowModel({"base": "lapflow-digits", "model": {"depth": 1}}, [1, 8, 8], ["a", "b"])
    assert made.config.lapflow == resolved(made.loaded_run.config)
    assert made.config.lapflow["model"]["depth"] == 1
    again = LapFlowModel.from_config(made.config)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True)), (
        "first weights of the seed"
    )


@pytest.mark.parametrize("accelerate", [True, False], ids=["accelerate", "without"])
def test_weights_of_another_network_are_refused(digits, tmp_path, accelerate):
    digits.save_pretrained(tmp_path)
    state = digits.state_dict()
    from safetensors.torch import save_file

    file, (first, *_) = tmp_path / "diffusion_pytorch_model.safetensors", state
    for spoilt, words in (
        ({name: value for name, value in state.items() if name != first}, f"missing keys {first}"),
        ({**state, "more": torch.zeros(1)}, "unexpected keys more"),
        ({**state, first: state[first].new_zeros(3, 5)}, "cannot be loaded"),
    ):
        save_file({name: value.contiguous() for name, value in spoilt.items()}, file)
        with pytest.raises(CheckpointError, match=words):
            LapFlowModel.from_pretrained(tmp_path, low_cpu_mem_usage=accelerate)


def test_a_config_that_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a backbone"):
        LapFlowModel.from_config({"sample_size": 32})
    with pytest.raises(ConfigError, match="lapflow-digits"):
        LapFlowModel({"base": "lapflow-digit"}, [1, 8, 8], [])
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        model(loaded_run()).save_pretrained(tmp_path / "file")

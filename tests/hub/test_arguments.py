"""What a call cannot do is one `ConfigError`, raised before any work."""

import pytest
import torch

from tests.hub.builders import pipeline, seeds

pytest.importorskip("diffusers")

from lapflow.core.errors import ConfigError
from lapflow.solvers import Heun


@pytest.fixture(scope="module")
def digits():
    pipe = pipeline()
    pipe.backbone.register_forward_pre_hook(lambda *_: pytest.fail("the network was called"))
    return pipe


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"class_labels": [10]}, "0 to 9"),
        ({"class_labels": [-1]}, "0 to 9"),
        ({"class_labels": ["ten"]}, "unknown class"),
        ({"class_labels": [1.5]}, "a number or a name"),
        ({"class_labels": [True]}, "a number or a name"),
        ({"class_labels": torch.tensor([0.5])}, "a number or a name"),
        ({"class_labels": []}, "empty"),
        ({"num_images_per_label": 0}, "at least 1"),
        ({"num_inference_steps": 1}, "at least 2"),
        ({"num_inference_steps": 0}, "at least 2"),
        ({"num_inference_steps": 2.0}, "whole number"),
        ({"num_inference_steps": 4, "solver": "dopri5"}, "chooses its own steps"),
        ({"num_inference_steps": 4, "solver": Heun(steps=2)}, "named with its arguments"),
        ({"solver": "hein"}, "heun"),
        ({"solver": {"name": "ddpm", "variance": "learned"}}, "needs variance"),
        ({"solver": {"name": "heun", "step": 3}}, "step"),
        ({"solver": {"name": "heun", "steps": [1, 2, 3]}}, "every segment"),
        ({"solver": {"steps": 3}}, "name"),
        ({"guidance_scale": [1.0, 2.0, 3.0]}, "every scale"),
        ({"guidance_scale": 2.0, "class_labels": None}, "class labels"),
        ({"generator": seeds(0, 1, 2)}, "one generator per image"),
        ({"latents": torch.zeros(1, 1, 8, 8)}, r"\(2, 1, 8, 8\)"),
        ({"latents": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}, "floating point"),
        ({"output_type": "png"}, "pil"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "latents"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_mistakes_are_errors(digits, arguments, words):
    with pytest.raises(ConfigError, match=words):
        digits(**{"class_labels": [1, 2], **arguments})


def test_an_argument_that_is_none_of_ours_is_not_ignored(digits):
    with pytest.raises(TypeError, match="prompt"):
        digits([1], prompt="a digit")


def test_steps_must_fit_the_path():
    """DDPM's path has a thousand times."""
    with pytest.raises(ConfigError, match=r"1000|1,000"):
        pipeline("dit-digits")([1], num_inference_steps=1001)


def test_an_adaptive_solver_cannot_be_steered():
    pipe = pipeline("lfm-digits")
    with pytest.raises(ConfigError, match="fixed number of steps"):
        pipe([1], callback_on_step_end=lambda pipe, step, t, tensors: {"latents": tensors["latents"] * 2})


@pytest.mark.parametrize("made", [torch.zeros(1, 1, 4, 4), "latents"])
def test_latents_of_a_callback_must_keep_their_form(made):
    with pytest.raises(ConfigError, match="form in which it got them"):
        pipeline()(
            [1],
            num_inference_steps=2,
            callback_on_step_end=lambda *_: {"latents": torch.zeros(1) if made == "latents" else "x"},
        )


def test_the_null_class_must_have_been_trained():
    pipe = pipeline("lapflow-digits", "training.condition_dropout=0")
    with pytest.raises(ConfigError, match="null class"):
        pipe()
    with pytest.raises(ConfigError, match="null class"):
        pipe([1], guidance_scale=2.0)
    assert len(pipe([1], num_inference_steps=2).images) == 1


def test_pictures_have_one_or_three_channels():
    pipe = pipeline(shape=(2, 8, 8))
    with pytest.raises(ConfigError, match="2 channels"):
        pipe([1])
    assert pipe([1], num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 2)

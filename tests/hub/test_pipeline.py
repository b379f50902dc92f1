"""What diffusers asks of its own pipelines in its common tests, asked of ours: for compositions of every
kind, and in latents."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from tests.hub.builders import SYSTEMS, copied, draw, latent_pipeline, pipeline, quiet, seeds

pytest.importorskip("diffusers")

from accelerate.hooks import CpuOffload
from diffusers import DiffusionPipeline, ImagePipelineOutput

from lapflow.core.errors import ConfigError
from lapflow.hub import LapFlowPipeline
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.sampling.sampler import sample
from lapflow.solvers import Euler
from lapflow.util.random import keyed_generator


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request):
    """(a pipeline, its number of steps)"""
    return pipeline(request.param), SYSTEMS[request.param]


@pytest.fixture(scope="module")
def digits():
    return pipeline()


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return latent_pipeline(tmp_path_factory.mktemp("autoencoder"))


# ---------------------------------------------------------------- every composition


@pytest.mark.parametrize("accelerate", [True, False], ids=["accelerate", "without"])
def test_saved_and_loaded_it_draws_the_same_images(system, tmp_path, accelerate):
    """`low_cpu_mem_usage` is what diffusers chooses by whether accelerate is there."""
    pipe, steps = system
    pipe.save_pretrained(tmp_path)
    loaded = quiet(LapFlowPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=accelerate))
    assert loaded.loaded_run.config == pipe.loaded_run.config
    assert torch.equal(draw(loaded, num_inference_steps=steps), draw(pipe, num_inference_steps=steps))


def test_the_same_generator_gives_the_same_images(system):
    pipe, steps = system
    first, again, other = (
        draw(pipe, generator=torch.Generator().manual_seed(s), num_inference_steps=steps) for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_a_batch_of_one_is_the_same_sample_in_a_batch(system):
    """To rounding; an adaptive solver's steps are chosen for the whole batch, and a random network is rough
    in time."""
    pipe, steps = system
    together = draw(pipe, num_inference_steps=steps, output_type="latent")
    for i, label in enumerate((3, 1, 4)):
        alone = draw(pipe, [label], seeds(i), num_inference_steps=steps, output_type="latent")
        scale = together.abs().max()
        assert (alone[0] - together[i]).abs().max() <= (1e-5 if steps else 1e-2) * scale


def test_latents_are_what_the_generator_draws(system):
    """A sampler that draws in its steps goes on with the generator, so there the generator must have drawn
    them."""
    pipe, steps = system
    latents = pipe.prepare_latents(3, seeds(0, 1, 2))
    assert latents.shape[0] == 3
    assert abs(latents.std().item() - 1) < 0.2
    used = seeds(0, 1, 2)
    assert torch.equal(pipe.prepare_latents(3, used), latents)
    assert torch.equal(
        draw(pipe, generator=used, latents=latents, num_inference_steps=steps),
        draw(pipe, num_inference_steps=steps),
    )
    assert not torch.equal(
        draw(pipe, latents=latents + 0.1, num_inference_steps=steps), draw(pipe, num_inference_steps=steps)
    )


def test_half_precision_draws_nearly_the_same(system):
    """Weights in bfloat16, the state in float32."""
    pipe, steps = system
    expected = draw(pipe, num_inference_steps=steps, output_type="latent")
    found = draw(copied(pipe).to(torch.bfloat16), num_inference_steps=steps, output_type="latent")
    assert found.dtype == torch.float32
    assert (found - expected).pow(2).mean().sqrt() <= 0.1 * expected.pow(2).mean().sqrt()


def test_a_callback_sees_every_step_and_may_change_the_latents(system):
    pipe, steps = system
    seen = []

    def blank(pipe, step, t, tensors):
        seen.append((step, t, tuple(tensors["latents"].shape)))
        if steps and step == pipe.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    images = draw(pipe, num_inference_steps=steps, callback_on_step_end=blank, output_type="latent")
    assert [step for step, _, _ in seen] == list(range(len(seen)))
    times = [t for _, t, _ in seen]
    assert times == sorted(times)
    assert 0.9 < times[-1] <= 1
    assert seen[-1][2] == images.shape
    if steps:
        assert len(seen) == pipe.num_timesteps == steps
        assert images.abs().max() == 0


def test_interrupted_it_returns_what_it_has(system):
    """An image of full size, of the step at which it was asked to stop."""
    pipe, steps = system
    seen = []

    def stop(pipe, step, t, tensors):
        seen.append(tensors["latents"].clone())
        pipe._interrupt = step == 1
        return tensors

    found = draw(pipe, num_inference_steps=steps, callback_on_step_end=stop, output_type="latent")
    assert len(seen) == 2
    assert found.shape == (3, *pipe.backbone.latent_shape)
    coarse = found.shape[-1] // seen[-1].shape[-1]
    gain = pipe.flow.decomposition.gain(0) / pipe.flow.decomposition.gain(int(np.log2(coarse)))
    torch.testing.assert_close(found.mean((-2, -1)), gain * seen[-1].mean((-2, -1)), atol=1e-4, rtol=1e-4)
    whole = draw(pipe, num_inference_steps=steps, output_type="latent")
    assert not torch.equal(found, whole)
    assert torch.equal(draw(pipe, num_inference_steps=steps, output_type="latent"), whole), (
        "it stops one call only"
    )


# ---------------------------------------------------------------- what is returned


def test_the_signature_has_the_common_arguments():
    common = {"num_inference_steps", "generator", "latents", "output_type", "return_dict"}
    wanted = common | {
        "class_labels",
        "guidance_scale",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
    }
    assert wanted <= set(inspect.signature(LapFlowPipeline.__call__).parameters)
    assert LapFlowPipeline._callback_tensor_inputs == ["latents"]


def test_a_tuple_or_a_named_output(digits):
    named = digits([1, 2], generator=seeds(0, 1), output_type="np")
    assert isinstance(named, ImagePipelineOutput)
    (plain,) = digits([1, 2], generator=seeds(0, 1), output_type="np", return_dict=False)
    assert np.array_equal(named.images, plain)


def test_every_output_is_the_same_images(digits):
    """-1 is 0 and 1 is 1; pictures are what `lapflow sample` writes."""
    latent, tensor, array, pictures = (
        draw(digits, output_type=kind) for kind in ("latent", "pt", "np", "pil")
    )
    assert latent.shape == tensor.shape == (3, 1, 8, 8)
    torch.testing.assert_close(tensor, (latent / 2 + 0.5).clamp(0, 1))
    assert tensor.dtype == torch.float32
    assert array.shape == (3, 8, 8, 1)
    assert array.dtype == np.float32
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert all(isinstance(picture, Image.Image) and picture.mode == "L" for picture in pictures)
    grey = np.stack([np.asarray(picture) for picture in pictures])
    assert np.abs(grey - 255.0 * array[..., 0]).max() <= 0.501


def test_colour_images_are_colour_pictures():
    pipe = pipeline(shape=(3, 8, 8))
    (picture,) = pipe([1], generator=seeds(0), num_inference_steps=4).images
    assert picture.mode == "RGB"
    assert picture.size == (8, 8)


# ---------------------------------------------------------------- labels, steps, guidance


def test_classes_by_number_by_name_and_in_a_tensor(latent):
    by_number, by_name = draw(latent, [1, 0]), draw(latent, ["right", "left"])
    assert torch.equal(by_number, by_name)
    assert torch.equal(
        latent(torch.tensor([1, 0]), generator=seeds(0, 1), output_type="pt").images, by_number
    )
    assert torch.equal(latent("right", generator=seeds(0), output_type="pt").images, draw(latent, [1]))
    assert not torch.equal(draw(latent, [0, 0]), by_number)
    assert latent.labels == {"left": 0, "right": 1}


def test_several_images_of_each_label(digits):
    found = digits([3, 1], num_images_per_label=2, generator=seeds(0, 1, 2, 3), output_type="pt").images
    assert torch.equal(found, draw(digits, [3, 3, 1, 1]))


def test_without_labels_the_null_class(digits):
    found = digits(num_images_per_label=2, generator=seeds(0, 1), output_type="pt").images
    assert found.shape == (2, 1, 8, 8)
    assert not torch.equal(found, draw(digits, [3, 1]))


def test_a_model_without_classes():
    pipe = pipeline(names=())
    assert len(pipe(num_images_per_label=3, num_inference_steps=4).images) == 3
    with pytest.raises(ConfigError, match="no classes"):
        pipe([0])
    with pytest.raises(ConfigError, match="guidance needs a condition"):
        pipe(guidance_scale=2.0)


def test_the_number_of_steps_is_over_all_segments(digits):
    """Half of the times are the second segment's: steps [n/2, n/2]. `solver` takes the steps of each
    segment."""
    assert torch.equal(
        draw(digits, num_inference_steps=10), draw(digits, solver={"name": "heun", "steps": [5, 5]})
    )
    assert torch.equal(draw(digits), draw(digits, num_inference_steps=20)), "the config's: 10 in each segment"
    assert digits.num_timesteps == 20
    assert torch.equal(
        draw(digits, num_inference_steps=4, solver="euler"),
        draw(digits, solver={"name": "euler", "steps": 2}),
    )
    uneven = pipeline("lapflow-digits", "flow.intervals.starts=[0,0.75]")
    assert torch.equal(
        draw(uneven, num_inference_steps=8), draw(uneven, solver={"name": "heun", "steps": [6, 2]})
    )


def test_guidance_as_in_diffusers(digits):
    plain = draw(digits)
    assert torch.equal(draw(digits, guidance_scale=1.0), plain)
    assert torch.equal(draw(digits, guidance_scale=0.0), plain), "at most 1 is off"
    strong = draw(digits, guidance_scale=3.0)
    assert (strong - plain).abs().max() > 1e-3
    assert torch.equal(draw(digits, guidance_scale=[3.0, 3.0]), strong), "one for each scale"
    assert not torch.equal(draw(digits, guidance_scale=[3.0, 1.0]), strong)
    configured = pipeline("lapflow-digits", "sampling.guidance.scale=3.0")
    assert torch.equal(draw(configured), strong), "the config's is the default"
    assert torch.equal(draw(configured, guidance_scale=1.0), plain)


def test_a_callback_may_change_the_guidance(digits):
    def stronger(pipe, step, t, tensors):
        pipe._guidance_scale += 1.0
        return tensors

    changed = draw(digits, guidance_scale=2.0, num_inference_steps=6, callback_on_step_end=stronger)
    assert digits.guidance_scale == 2.0 + digits.num_timesteps
    assert not torch.equal(changed, draw(digits, guidance_scale=2.0, num_inference_steps=6))

    def off(pipe, step, t, tensors):
        pipe._guidance_scale = 0.0 if step == 2 else pipe._guidance_scale

    half = draw(digits, guidance_scale=2.0, num_inference_steps=6, solver="euler", callback_on_step_end=off)
    guide = ClassifierFreeGuidance(scale=2.0, interval=[0.0, 0.49])
    by_hand = sample(
        digits.flow,
        digits.backbone.network,
        (3, 1, 8, 8),
        condition=torch.tensor([3, 1, 4]),
        solver=Euler(steps=3),
        guidance=guide,
        generator=seeds(0, 1, 2),
    )
    assert torch.equal(half, (by_hand / 2 + 0.5).clamp(0, 1)), (
        "guided in the three steps of the first segment only"
    )


def test_callbacks_get_what_they_ask_for(digits):
    seen = []

    def note(pipe, step, t, tensors):
        seen.append(set(tensors))

    draw(digits, num_inference_steps=4, callback_on_step_end=note, callback_on_step_end_tensor_inputs=[])
    assert seen == [set()] * 4
    with pytest.raises(ConfigError, match="latents"):
        draw(digits, callback_on_step_end=note, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_diffusers_own_callbacks_work(digits):
    from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

    class Halve(PipelineCallback):
        tensor_inputs = ("latents",)

        def callback_fn(self, pipe, step, t, tensors):
            if step == pipe.num_timesteps - 1:
                tensors["latents"] = tensors["latents"] / 2
            return tensors

    halved = draw(digits, callback_on_step_end=Halve(cutoff_step_ratio=1.0), output_type="latent")
    torch.testing.assert_close(halved, draw(digits, output_type="latent") / 2)
    both = MultiPipelineCallbacks([Halve(cutoff_step_ratio=1.0), Halve(cutoff_step_ratio=1.0)])
    torch.testing.assert_close(draw(digits, callback_on_step_end=both, output_type="latent"), halved / 2)


def test_writing_into_the_latents_counts_too(digits):
    def blank(pipe, step, t, tensors):
        if step == pipe.num_timesteps - 1:
            tensors["latents"].zero_()
        return tensors

    assert draw(digits, callback_on_step_end=blank, output_type="latent").abs().max() == 0


def test_a_callback_that_changes_nothing_changes_nothing(digits):
    assert torch.equal(
        draw(digits, callback_on_step_end=lambda pipe, step, t, tensors: tensors), draw(digits)
    )


# ---------------------------------------------------------------- components, devices, types


def test_components_make_another_pipeline(digits, latent):
    for pipe, labels in ((digits, [3, 1, 4]), (latent, [1, 0])):
        assert set(pipe.components) == {"backbone", "vae"}
        other = quiet(LapFlowPipeline(**pipe.components))
        assert other.backbone is pipe.backbone
        assert torch.equal(draw(other, labels), draw(pipe, labels))
        again = quiet(LapFlowPipeline.from_pipe(pipe))
        assert again.vae is pipe.vae
        assert torch.equal(draw(again, labels), draw(pipe, labels))


def test_device_and_dtype_of_all_components(latent):
    pipe = copied(latent)
    pipe.to("meta")
    assert {part.device.type for part in (pipe.backbone, pipe.vae)} == {"meta"}
    assert pipe.device.type == "meta"
    pipe = copied(latent)
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float32):
        pipe.to(dtype=dtype)
        assert {part.dtype for part in (pipe.backbone, pipe.vae)} == {dtype}
        assert pipe.dtype == dtype
        images = draw(pipe, [1, 0], num_inference_steps=4)
        assert images.dtype == torch.float32
        assert torch.isfinite(images).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_loaded_in_another_type_it_is_the_moved_one(digits, tmp_path, dtype):
    digits.save_pretrained(tmp_path)
    loaded, moved = (
        quiet(LapFlowPipeline.from_pretrained(tmp_path, **kind)) for kind in ({"torch_dtype": dtype}, {})
    )
    assert loaded.dtype == dtype
    assert torch.equal(draw(loaded, num_inference_steps=4), draw(moved.to(dtype), num_inference_steps=4))


def test_saved_in_half_precision_it_stays_so(digits, tmp_path):
    digits.save_pretrained(tmp_path / "whole")
    half = quiet(LapFlowPipeline.from_pretrained(tmp_path / "whole", torch_dtype=torch.float16))
    half.save_pretrained(tmp_path / "half", variant="fp16")
    files = sorted(p.name for p in (tmp_path / "half" / "backbone").glob("*.safetensors"))
    assert files == ["diffusion_pytorch_model.fp16.safetensors"]
    again = quiet(
        LapFlowPipeline.from_pretrained(tmp_path / "half", variant="fp16", torch_dtype=torch.float16)
    )
    assert torch.equal(draw(again, num_inference_steps=4), draw(half, num_inference_steps=4))


def test_float64_is_float64(digits, tmp_path):
    digits.save_pretrained(tmp_path)
    pipe = quiet(LapFlowPipeline.from_pretrained(tmp_path, torch_dtype=torch.float64))
    assert draw(pipe, num_inference_steps=4, output_type="latent").dtype == torch.float64


def test_offloading_runs_one_component_after_the_other(latent, monkeypatch):
    """accelerate's own hooks, with the CPU in the accelerator's place: weights rest where they are, but who
    is fetched is seen."""
    assert LapFlowPipeline.model_cpu_offload_seq.split("->") == list(latent.components) == ["backbone", "vae"]
    pipe, fetched = copied(latent), []
    names = {id(part): name for name, part in pipe.components.items()}
    fetch = CpuOffload.pre_forward

    def seen(hook, module, *arguments, **named):
        fetched.append(names[id(module)])
        return fetch(hook, module, *arguments, **named)

    monkeypatch.setattr(CpuOffload, "pre_forward", seen)
    wanted = draw(pipe, [1, 0], num_inference_steps=4)
    assert fetched == []
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        hooks = list(pipe._all_hooks)
        assert torch.equal(draw(pipe, [1, 0], num_inference_steps=4), wanted)
        assert [name for name, _ in itertools.groupby(fetched)] == ["backbone", "vae"]
        assert len(hooks) == 2
        assert set(map(id, pipe._all_hooks)).isdisjoint(map(id, hooks)), (
            "at the end all are sent away, and hooked anew"
        )
        fetched.clear()


def test_offloaded_weights_do_not_place_the_state(digits, monkeypatch):
    """With hooks the weights rest elsewhere until they are called; the state is on the device where they
    run."""
    asked = []
    inner = digits.flow.draw_white
    monkeypatch.setattr(type(digits), "_execution_device", property(lambda self: torch.device("meta")))
    monkeypatch.setattr(
        digits.flow,
        "draw_white",
        lambda *a, device, **k: asked.append(device) or inner(*a, device="cpu", **k),
    )
    digits.prepare_latents(2, seeds(0, 1))
    assert asked == [torch.device("meta")]


def test_the_progress_bar(digits, capsys):
    pipe = quiet(LapFlowPipeline(**digits.components))
    draw(pipe, num_inference_steps=6)
    assert "6/6" not in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=False)
    draw(pipe, num_inference_steps=6)
    assert "6/6" in capsys.readouterr().err
    adaptive = pipeline("lfm-digits")
    adaptive.set_progress_bar_config(disable=False)
    draw(adaptive)
    assert "1/1" in capsys.readouterr().err, "an adaptive solver's bar counts segments"


def test_a_seed_of_torch_fixes_a_call_without_a_generator(digits):
    torch.manual_seed(5)
    first = digits([3, 1], output_type="pt").images
    second = digits([3, 1], output_type="pt").images
    torch.manual_seed(5)
    assert torch.equal(digits([3, 1], output_type="pt").images, first)
    assert not torch.equal(first, second)


def test_compiled_it_draws_the_same(digits):
    pipe = quiet(LapFlowPipeline(**digits.components))
    pipe.backbone = torch.compile(pipe.backbone, backend="eager")
    torch.testing.assert_close(draw(pipe, num_inference_steps=2), draw(digits, num_inference_steps=2))


def test_it_draws_as_lapflow_does(digits, tmp_path):
    """Sample i of `lapflow sample --seed s` is the generator keyed by (s, "noise", i)."""
    import lapflow

    digits.save_pretrained(tmp_path)
    expected = lapflow.load(tmp_path, device="cpu").sample(3, labels=[3, 1, 4], seed=9).images
    found = draw(digits, generator=[keyed_generator(9, "noise", i) for i in range(3)])
    assert torch.equal(found, (expected / 2 + 0.5).clamp(0, 1))


# ---------------------------------------------------------------- latents of an autoencoder


def test_latents_are_decoded_by_the_vae_with_its_scale(latent):
    z = draw(latent, [1, 0], output_type="latent")
    assert z.shape == (2, 2, 8, 8)
    with torch.no_grad():
        images = latent.vae.decode(z / 0.5 + 0.1).sample
    torch.testing.assert_close(draw(latent, [1, 0]), (images / 2 + 0.5).clamp(0, 1))


def test_a_pipeline_in_latents_is_whole_in_its_folder(latent, tmp_path):
    """The folder has the autoencoder, so the place where it came from may go."""
    latent.save_pretrained(tmp_path / "out")
    loaded = quiet(LapFlowPipeline.from_pretrained(tmp_path / "out"))
    assert torch.equal(draw(loaded, [1, 0]), draw(latent, [1, 0]))
    generic = quiet(
        DiffusionPipeline.from_pretrained(tmp_path / "out", vae=latent.vae, trust_remote_code=True)
    )
    assert generic.vae is latent.vae


def test_without_the_optional_vae_it_makes_latents(latent, tmp_path):
    bare = quiet(LapFlowPipeline(latent.backbone, None))
    bare.save_pretrained(tmp_path)
    loaded = quiet(LapFlowPipeline.from_pretrained(tmp_path))
    assert loaded.vae is None
    assert torch.equal(draw(loaded, [1, 0], output_type="latent"), draw(latent, [1, 0], output_type="latent"))


def test_a_replaced_vae_is_used(latent):
    pipe, other = quiet(LapFlowPipeline(**latent.components)), copied(latent).vae
    with torch.no_grad():
        other.decoder.conv_out.bias += 1
    pipe.vae = other
    assert not torch.equal(draw(pipe, [1, 0]), draw(latent, [1, 0]))


def test_a_vae_that_does_not_fit_is_refused(digits, latent):
    with pytest.raises(ConfigError, match="without a network"):
        LapFlowPipeline(digits.backbone, latent.vae)
    with pytest.raises(ConfigError, match="not what the codec's config says"):
        LapFlowPipeline(latent.backbone, torch.nn.Linear(1, 1))

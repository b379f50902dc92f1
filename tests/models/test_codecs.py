"""Codecs: the shapes they state, what they load, and their errors."""

import shutil
import sys

import pytest
import torch

from lapflow.core.errors import BackendError, ConfigError, SizeError
from lapflow.models import AutoencoderKLCodec, Pixels
from tests.support import small_autoencoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny real autoencoder, saved."""
    return small_autoencoder(tmp_path_factory.mktemp("autoencoder"), scaling_factor=0.3, shift_factor=0.1)


def images(batch=2):
    return torch.rand(batch, 3, 8, 12, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_pixels_are_themselves():
    x = images()
    assert Pixels().latent_shape((3, 8, 12)) == (3, 8, 12)
    assert Pixels().decode(Pixels().encode(x)) is x


def test_latents_are_the_shifted_and_scaled_posterior_means(folder):
    from diffusers import AutoencoderKL

    own, given = (
        AutoencoderKLCodec(str(folder), factor=2, channels=2),
        AutoencoderKLCodec(str(folder), factor=2, channels=2, scale=2.0, shift=0.0),
    )
    model, x = AutoencoderKL.from_pretrained(folder).eval(), images()
    with torch.no_grad():
        mean = model.encode(x).latent_dist.mean
        back = model.decode(mean).sample
    assert own.encode(x).shape == (2, *own.latent_shape((3, 8, 12))) == (2, 2, 4, 6)
    torch.testing.assert_close(own.encode(x), (mean - 0.1) * 0.3)
    torch.testing.assert_close(given.encode(x), 2 * mean)
    for codec in (own, given):
        torch.testing.assert_close(codec.decode(codec.encode(x)), back, rtol=1e-4, atol=1e-4)


def test_the_autoencoder_is_frozen_and_keeps_the_dtype(folder):
    codec = AutoencoderKLCodec(str(folder), factor=2, channels=2)
    assert codec.encode(images().bfloat16()).dtype == torch.bfloat16
    latents = codec.encode(images())
    assert not latents.requires_grad
    assert not codec.decode(latents).requires_grad
    assert not codec._model.training
    latents.requires_grad_()
    assert torch.autograd.grad(codec.decode(latents).sum(), latents)[
        0
    ].any()  # guidance through the decoder stays possible


def test_latents_are_drawn_from_the_posterior_on_request(folder):
    """posterior=sample: z = mean + std n, n the sample's own; the mean without a generator, and over many
    draws."""
    plain, drawing = (
        AutoencoderKLCodec(str(folder), factor=2, channels=2, posterior=p) for p in ("mean", "sample")
    )
    moments = plain.posterior(images(1))
    mean, log_variance = moments.chunk(2, dim=1)
    generators = [torch.Generator().manual_seed(5)]
    noise = torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(5))
    expected = (mean + (log_variance / 2).exp() * noise - 0.1) * 0.3
    torch.testing.assert_close(drawing.latents(moments, generators), expected)
    assert torch.equal(drawing.latents(moments), plain.latents(moments, generators))
    many = drawing.latents(moments.expand(4000, -1, -1, -1), torch.Generator().manual_seed(0))
    std = 0.3 * (log_variance[0] / 2).exp()
    assert ((many.mean(0) - plain.latents(moments)[0]).abs() < 5 * std / 4000**0.5).all()
    torch.testing.assert_close(many.std(0), std, rtol=0.07, atol=0)


def test_drawing_nothing_leaves_the_generators_where_they_were(folder):
    codec = AutoencoderKLCodec(str(folder), factor=2, channels=2)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    before = [g.get_state() for g in generators]
    codec.encode(images(), generators)
    assert all(torch.equal(g.get_state(), state) for g, state in zip(generators, before, strict=True))


def test_a_cpu_s_moments_do_not_depend_on_the_batch(folder):
    codec, x = AutoencoderKLCodec(str(folder), factor=2, channels=2), images(7)
    assert torch.equal(codec.posterior(x), torch.cat([codec.posterior(part) for part in x.split(3)]))


def test_identity_is_of_the_weights_and_not_of_where_they_lie(folder, tmp_path):
    from diffusers import AutoencoderKL

    own = AutoencoderKLCodec(str(folder), factor=2, channels=2).identity()
    shutil.copytree(folder, tmp_path / "copy")
    assert (
        AutoencoderKLCodec(
            str(tmp_path / "copy"), factor=2, channels=2, scale=3.0, posterior="sample"
        ).identity()
        == own
    )
    model = AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters())[0] += 1e-6
    model.save_pretrained(tmp_path / "other")
    other = AutoencoderKLCodec(str(tmp_path / "other"), factor=2, channels=2).identity()
    assert {key for key in own if own[key] != other[key]} == {"weights"}


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_pickle_in_place_of_weights_is_not_opened(folder, tmp_path, suffix):
    shutil.copytree(folder, tmp_path / "crafted")
    (tmp_path / "crafted" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(
        {"weight": Trap(tmp_path / "sprung")}, tmp_path / "crafted" / f"diffusion_pytorch_model.{suffix}"
    )
    with pytest.raises(BackendError, match="which is a pickle" if suffix == "bin" else "cannot be loaded"):
        AutoencoderKLCodec(str(tmp_path / "crafted"), factor=2, channels=2).load()
    assert not (tmp_path / "sprung").exists()


def test_nothing_is_loaded_for_the_shape():
    codec = AutoencoderKLCodec("no/such-autoencoder")
    assert codec.latent_shape((3, 256, 128)) == (4, 32, 16)
    with pytest.raises(SizeError, match="248 or 256"):
        codec.latent_shape((3, 250, 256))


@pytest.mark.parametrize(
    ("options", "message"), [({"factor": 4}, "'factor': 2"), ({"factor": 2, "channels": 3}, "'channels': 2")]
)
def test_an_autoencoder_that_disagrees_is_an_error(folder, options, message):
    codec = AutoencoderKLCodec(str(folder), **{"channels": 2, **options})
    with pytest.raises(ConfigError, match=message):
        codec.encode(images())


def test_grey_images_are_refused(folder):
    with pytest.raises(SizeError, match="number of channels"):
        AutoencoderKLCodec(str(folder), factor=2, channels=2).encode(images()[:, :1])


def test_a_missing_autoencoder_is_an_error(tmp_path):
    with pytest.raises(BackendError, match="cannot be loaded"):
        AutoencoderKLCodec(str(tmp_path)).encode(images()[:, :, :8, :8])


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(BackendError, match=r"lapflow\[diffusers\]"):
        AutoencoderKLCodec("stabilityai/sd-vae-ft-ema").decode(torch.zeros(1, 4, 2, 2))


def test_a_network_may_be_given(folder):
    """A codec with a network of its owner's loads none, follows it wherever it is moved, and refuses one of
    another size."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(folder)
    given, own = (
        AutoencoderKLCodec("no/such-autoencoder", factor=2, channels=2),
        AutoencoderKLCodec(str(folder), factor=2, channels=2),
    )
    given.set_module(model)
    assert given.module is model
    assert torch.equal(given.encode(images()), own.encode(images()))
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="'factor': 2"):
        AutoencoderKLCodec("no/such-autoencoder", channels=2).set_module(model)
    with pytest.raises(ConfigError, match="Linear"):
        given.set_module(torch.nn.Linear(1, 1))
    assert given.module is model


def test_a_network_that_hooks_move_is_left_to_them(folder, monkeypatch):
    codec = AutoencoderKLCodec(str(folder), factor=2, channels=2)
    monkeypatch.setattr(codec.module, "_hf_hook", object(), raising=False)
    monkeypatch.setattr(type(codec.module), "to", lambda *a, **k: pytest.fail("it was moved"))
    assert codec._on(torch.device("meta")) is codec.module

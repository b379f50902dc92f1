"""Pictures: exact grey levels, and layouts that hold what they should."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lapflow.core.errors import BackendError, ConfigError
from lapflow.pyramids.laplacian import LaplacianPyramid
from lapflow.pyramids.wavelet import WaveletPyramid
from lapflow.sampling.pictures import (
    _mosaic,
    band_picture,
    image_grid,
    loss_curve,
    scale_strip,
    smooth,
    to_uint8,
)


def test_digits_map_to_their_exact_grey():
    levels = torch.arange(17)
    got = to_uint8((levels / 8 - 1).reshape(1, 1, 1, 17))
    assert got.dtype == np.uint8
    assert got.shape == (1, 1, 17, 1)
    assert got.flatten().tolist() == [round(255 * g / 16) for g in range(17)]


def test_every_8_bit_level_survives():
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_uint8((levels.float() / 127.5 - 1).reshape(1, 1, 16, 16)).flatten().tolist() == levels.tolist()


def test_out_of_range_is_clipped_and_nan_refused():
    assert to_uint8(
        torch.tensor([-7.0, float("-inf"), 7.0, float("inf")]).reshape(1, 1, 2, 2)
    ).flatten().tolist() == [0, 0, 255, 255]
    with pytest.raises(ConfigError, match="not numbers"):
        to_uint8(torch.full((1, 3, 2, 2), float("nan")))


def test_grid_holds_the_pixels():
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 1, 8, 8)
    picture = np.asarray(image_grid(images, columns=3, upscale=2))
    for i in range(6):
        row, column = divmod(i, 3)
        y, x = 14 + row * 20, 14 + column * 20
        assert (picture[y : y + 16, x : x + 16] == round(i * 51)).all()
    assert picture[0, 0].tolist() == [255] * 3


def test_titles_and_captions_make_room():
    images = torch.zeros(4, 3, 8, 8)
    bare = image_grid(images, 2)
    titled = image_grid(
        images,
        2,
        ["a", "b", "c", "d"],
        row_titles=["guidance 1", "guidance 2"],
        column_titles=["x", "a long title"],
    )
    assert titled.width > bare.width
    assert titled.height > bare.height


def test_strip_has_a_tile_per_row_and_time():
    frames = [
        (0.0, {"scale 1": torch.zeros(1, 4, 4), "image": torch.zeros(1, 4, 4)}),
        (
            1.0,
            {"scale 1": torch.zeros(1, 4, 4), "scale 0": torch.ones(1, 8, 8), "image": torch.ones(1, 8, 8)},
        ),
    ]
    picture = np.asarray(scale_strip(frames))
    grey = (picture == 128).all(-1).sum()
    assert grey == pytest.approx(
        3 * 96 * 96, abs=50
    )  # plus a few in the letters: three tiles of zeros, all the same size
    hatch = np.isin(picture[..., 0], (236, 216)).sum()
    assert hatch > 0.9 * 96 * 96  # the scale that is not active yet


@pytest.mark.parametrize("pyramid", [LaplacianPyramid(levels=3), WaveletPyramid(levels=3)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_band_picture_of_any_composition(pyramid, channels):
    image = torch.rand(1, channels, 16, 8) * 2 - 1
    bands = {k: band[0] for k, band in pyramid.analyze(image).items()}
    assert isinstance(band_picture(bands, image[0]), Image.Image)


def test_mosaic_places_wavelet_details_around_the_empty_corner():
    details = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    assert _mosaic(details, 1)[0, 0, 1] == 1
    assert _mosaic(details, 1)[0, 1].tolist() == [2, 3]
    colour = torch.arange(9.0).reshape(9, 1, 1)  # channel 3 i + d
    assert _mosaic(colour, 3)[:, 0, 1].tolist() == [0, 3, 6]


def rows(count):
    for step in range(count):
        yield {
            "step": step,
            "learning_rate": 1e-3,
            "loss/scale1": 0.5,
            **({"loss/scale0": float("nan") if step == 3 else 0.2} if step % 2 else {}),
        }


@pytest.mark.parametrize("count", [1, 40])
def test_loss_curve_is_drawn(tmp_path, count):
    loss_curve(list(rows(count)), tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").size[0] == 1040
    loss_curve([{"step": s, "loss": 1.0} for s in range(count)], tmp_path / "plain.png")
    assert (tmp_path / "plain.png").stat().st_size > 1000


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"lapflow\[demo\]"):
        loss_curve([{"step": 0, "loss": 1.0}], tmp_path / "loss.png")


def test_smoothing_keeps_lines_and_length():
    line = np.arange(200.0)
    assert smooth(line)[10:-10] == pytest.approx(line[10:-10])
    assert len(smooth(np.array([1.0]))) == 1
    assert len(smooth(np.array([]))) == 0

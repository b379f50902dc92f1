"""Every kind of `bad_images` is read right, or refused by name with its cause; none warns, hangs or fills the
memory."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from lapflow.core.errors import DataError
from lapflow.data import ImageFolder
from lapflow.data.picture import LONGEST, crop_resize, plain, read_picture
from tests.data.bad_images import COLOUR, GREY, HEIGHT, PLAIN, READABLE, UNREADABLE, WIDTH, three

pytestmark = pytest.mark.usefixtures("no_hang")


def folder(path: Path, channels: int = 3) -> ImageFolder:
    return ImageFolder(root=path, size=[HEIGHT, WIDTH], channels=channels)


def grey_levels(image):
    return ((image + 1) * 127.5).permute(1, 2, 0).numpy()


def test_there_are_a_hundred_kinds_and_more():
    assert len(READABLE) >= 80
    assert len(UNREADABLE) >= 60


@pytest.mark.parametrize("name", READABLE, ids=ascii)
def test_read_right(tmp_path, recwarn, name):
    kind = READABLE[name]
    kind.write(tmp_path / name)
    data = folder(tmp_path)
    assert [data.name("train", i) for i in range(data.size("train"))] == [name]
    found = grey_levels(data.read("train", 0).value)
    assert abs(found - kind.pixels).max() <= kind.tolerance + 1e-3
    luma = kind.pixels @ np.array([0.299, 0.587, 0.114])
    grey = grey_levels(folder(tmp_path, channels=1).read("train", 0).value)[..., 0]
    assert abs(grey - luma).max() <= kind.tolerance + 1
    assert not recwarn.list


@pytest.mark.parametrize("name", UNREADABLE, ids=ascii)
def test_refused_with_the_cause(tmp_path, recwarn, name):
    write, cause = UNREADABLE[name]
    write(tmp_path / name)
    data = folder(tmp_path)
    assert [data.name("train", i) for i in range(data.size("train"))] == [name]
    with pytest.raises(DataError, match="cannot be read") as error:
        data.read("train", 0)
    assert error.value.where.endswith(name)
    assert re.search(cause, error.value.got, re.IGNORECASE), error.value.got
    assert str(tmp_path) not in error.value.got
    assert "\n" not in error.value.got
    assert " at 0x" not in error.value.got
    assert not recwarn.list


BOMBS = [
    name for name in UNREADABLE if name.startswith("bomb") and "text" not in name and "profile" not in name
]


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_any_pixel_is_decoded(tmp_path, monkeypatch, name):
    UNREADABLE[name][0](tmp_path / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # ours holds whatever a program sets
    with pytest.raises(DataError, match="cannot be read") as error:
        folder(tmp_path).read("train", 0)
    assert "89,478,485" in error.value.got


@pytest.mark.parametrize("shape", [(1, 30_000), (30_000, 1), (3, 30_000), (200, 30_000)])
@pytest.mark.parametrize("size", [(8, 8), (256, 256), (64, 200)])
def test_slivers_stay_small(monkeypatch, shape, size):
    made, resize = [], Image.Image.resize

    def counted(self, to, *args):
        made.append(to[0] * to[1])
        return resize(self, to, *args)

    monkeypatch.setattr(Image.Image, "resize", counted)
    assert crop_resize(Image.new("L", shape[::-1]), size).size == size[::-1]
    assert max(made) <= 2 * LONGEST * max(size[0] * size[1], shape[0] * shape[1] // 4)


def test_the_middle_of_a_sliver_is_what_scaling_all_of_it_gives():
    levels = (np.sin(np.arange(400) / 5) * 100 + 120).astype(np.uint8)
    sliver = Image.fromarray(np.repeat(levels[None], 3, 0))
    whole = sliver.resize((400 * 8 // 3, 8), Image.Resampling.BICUBIC)
    left = (whole.width - 8) // 2
    found = np.asarray(crop_resize(sliver, (8, 8))).astype(int)
    assert abs(found - np.asarray(whole.crop((left, 0, left + 8, 8)))).max() <= 6


def test_up_to_the_limit_nothing_is_cut_first():
    board = np.random.default_rng(0).integers(0, 256, (6, 6 * LONGEST), np.uint8)
    picture = Image.fromarray(board)
    whole = picture.resize((24 * LONGEST, 24), Image.Resampling.BICUBIC)
    left = (whole.width - 24) // 2
    assert np.array_equal(
        np.asarray(crop_resize(picture, (24, 24))), np.asarray(whole.crop((left, 0, left + 24, 24)))
    )


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "CMYK",
        "YCbCr",
        "HSV",
        "I",
        "I;16",
        "I;16B",
    ],
)
def test_every_mode_in_memory(mode):
    """Modes that no listed format gives are as right as the others."""
    start = Image.fromarray(three(GREY))
    if mode in ("La", "RGBa"):
        picture = (start.convert("L") if mode == "La" else start).convert(mode.upper()).convert(mode)
    elif mode.startswith("I"):
        picture = Image.fromarray(
            (GREY.astype(np.int64) * 257).astype({"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode])
        )
    elif mode in ("1", "LA", "P", "PA"):
        picture = start.convert("L").convert(mode)
    else:
        picture = start.convert(mode)
    assert picture.mode == mode
    expected = np.where(np.asarray(picture), 255, 0) if mode == "1" else GREY
    assert abs(np.asarray(plain(picture, 1)).astype(int) - expected).max() <= 2
    assert plain(picture, 3).mode == "RGB"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_what_the_file_system_refuses(tmp_path, monkeypatch, error, cause):
    (tmp_path / "x.png").write_bytes(PLAIN)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(DataError) as refused:
        read_picture(tmp_path / "x.png", (8, 8), 3)
    assert refused.value.got == cause


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_what_the_process_lacks_is_not_the_pictures_fault(tmp_path, monkeypatch, error):
    (tmp_path / "x.png").write_bytes(PLAIN)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)) as raised:
        read_picture(tmp_path / "x.png", (8, 8), 3)
    assert not isinstance(raised.value, DataError)


def test_an_error_about_an_odd_name_fits_any_terminal(tmp_path):
    name = os.fsdecode(b"two\nlines \xff.png")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError) as error:
        folder(tmp_path).read("train", 0)
    assert str(error.value).encode().count(b"\n") == 4
    assert "two\\nlines \\udcff.png" in str(error.value)


# ---- folders
def test_links_in_a_circle_are_listed_once(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x.png").write_bytes(PLAIN)
        os.symlink(tmp_path, tmp_path / name / "root")
        os.symlink("..", tmp_path / name / "deep" / "up")
        os.symlink("loop", tmp_path / name / "loop")
    os.symlink(".", tmp_path / "self")
    os.symlink(
        "../bee", tmp_path / "ant" / "other"
    )  # another class, not a circle: its pictures are this one's too
    data = folder(tmp_path)
    assert data.class_names == ("ant", "bee")
    names = [data.name("train", i) for i in range(data.size("train"))]
    assert names == ["ant/deep/x.png", "ant/other/deep/x.png", "bee/deep/x.png"]


def test_a_folder_is_a_folder_whatever_its_name(tmp_path):
    (tmp_path / "ant" / "x.png").mkdir(parents=True)
    (tmp_path / "ant" / "x.png" / "y.png").write_bytes(PLAIN)
    data = folder(tmp_path)
    assert data.name("train", 0) == "ant/x.png/y.png"
    with pytest.raises(DataError, match="cannot be read") as error:
        read_picture(tmp_path / "ant" / "x.png", (8, 8), 3)
    assert error.value.got == "a folder"


def test_folders_deeper_than_pythons_calls(tmp_path):
    depth, made = 1500, [str(tmp_path / "ant")]
    os.mkdir(made[0])
    for _ in range(depth):
        made.append(f"{made[-1]}/d")
        os.mkdir(made[-1])
    picture = Path(f"{made[-1]}/x.png")
    picture.write_bytes(PLAIN)
    try:
        data = folder(tmp_path)
        assert data.name("train", 0) == "ant/" + "d/" * depth + "x.png"
        assert np.array_equal(grey_levels(data.read("train", 0).value).round(), COLOUR)
    finally:  # pytest's own clean-up is recursive
        picture.unlink()
        for path in reversed(made):
            os.rmdir(path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    """How many pictures would be missing nobody knows, so none is left out in silence."""
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "x.png").write_bytes(PLAIN)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("ant"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be listed") as error:
        folder(tmp_path).size("train")
    assert error.value.where.endswith("ant")
    assert error.value.got == "Permission denied"

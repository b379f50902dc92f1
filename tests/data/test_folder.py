"""Folders of pictures as people have them, and what is said about the bad ones."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from lapflow.core.errors import ConfigError, DataError
from lapflow.data import ImageFolder
from lapflow.data.picture import crop_resize


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def plain(colour=(200, 100, 50), size=(12, 10), mode="RGB"):
    return Image.new(mode, size, colour)


def grey_levels(image):
    return ((image + 1) * 127.5).round()


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "ant", "bee"):
        for i in range(4):
            save(tmp_path / name / f"{i}.png", plain((10 * i, 20, 30)))
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / ".cache").mkdir()
    save(tmp_path / "bee" / "deep" / "er" / "x.PNG", plain())
    return tmp_path


def test_subfolders_are_classes_sorted_by_name(folder):
    data = ImageFolder(root=folder, size=8)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.num_classes == 3
    assert data.size("train") == 13
    assert data.size("test") == 0
    assert [data.read("train", i).annotations["label"] for i in range(13)] == [0] * 4 + [1] * 5 + [2] * 4
    assert data.config["root"] == str(folder)


def test_pictures_without_subfolders_have_no_classes(tmp_path):
    save(tmp_path / "a.png", plain())
    data = ImageFolder(root=tmp_path, size=[4, 6])
    assert (data.num_classes, data.class_names, data.shape) == (0, (), (3, 4, 6))
    sample = data.read("train", 0)
    image, label = sample.value, sample.annotations.get("label", 0)
    assert (image.shape, label, image.dtype) == ((3, 4, 6), 0, torch.float32)


def test_order_and_split_depend_on_names_only(folder):
    listing = ImageFolder(root=folder, size=8, held_out=0.4).listing
    train, test = listing.splits["train"], listing.splits["test"]
    assert train
    assert test
    assert sorted(train + test) == sorted(ImageFolder(root=folder, size=8).listing.splits["train"])
    moved = folder.rename(folder.with_name("elsewhere"))
    assert ImageFolder(root=moved, size=8, held_out=0.4).listing == listing
    save(moved / "ant" / "new.png", plain())
    assert set(test) <= set(ImageFolder(root=moved, size=8, held_out=0.4).listing.splits["test"])


ODD = {
    "rgba.png": lambda: Image.new("RGBA", (12, 10), (0, 0, 0, 0)),  # invisible black: white
    "rgba.webp": lambda: Image.new("RGBA", (12, 10), (0, 0, 0, 0)),
    "la.png": lambda: Image.new("LA", (12, 10), (0, 0)),
    "grey16.png": lambda: Image.fromarray(np.full((10, 12), 65535, np.uint16)),
    "bits.png": lambda: Image.new("1", (12, 10), 1),
    "grey.jpg": lambda: Image.new("L", (12, 10), 255),
    "cmyk.jpg": lambda: Image.new("CMYK", (12, 10), (0, 0, 0, 0)),
    "palette.png": lambda: Image.new("RGB", (12, 10), "white").convert("P", palette=Image.Palette.ADAPTIVE),
    "UPPER.JPEG": lambda: Image.new("RGB", (12, 10), "white"),
    "tiny.png": lambda: Image.new("RGB", (1, 1), "white"),
    "large.webp": lambda: Image.new("RGB", (301, 97), "white"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ODD)
def test_white_in_any_guise_is_white(tmp_path, name, channels):
    save(tmp_path / name, ODD[name](), **({"lossless": True} if name.endswith("webp") else {}))
    image = ImageFolder(root=tmp_path, size=[8, 6], channels=channels).read("train", 0).value
    assert image.shape == (channels, 8, 6)
    assert torch.allclose(image, torch.ones(channels, 8, 6), atol=0.02)


def test_transparent_palette_entry_is_white(tmp_path):
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    save(tmp_path / "p.png", picture, transparency=0)
    assert ImageFolder(root=tmp_path, size=8).read("train", 0).value.min() == 1


def test_colour_and_16_bit_values(tmp_path):
    save(tmp_path / "a" / "c.png", plain((200, 100, 50)))
    save(tmp_path / "b" / "g.png", Image.fromarray(np.full((9, 9), 257 * 77, np.uint16)))
    data = ImageFolder(root=tmp_path, size=4)
    assert grey_levels(data.read("train", 0).value)[:, 0, 0].tolist() == [200, 100, 50]
    assert grey_levels(data.read("train", 1).value).unique().tolist() == [77]
    grey = ImageFolder(root=tmp_path, size=4, channels=1).read("train", 0).value
    assert grey_levels(grey).unique().item() == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((16, 8, 3), np.uint8)
    pixels[:8] = 255  # white on top
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    save(tmp_path / "r.png", Image.fromarray(pixels).rotate(180), exif=exif)
    image = ImageFolder(root=tmp_path, size=[16, 8]).read("train", 0).value
    assert image[:, :8].min() == 1
    assert image[:, 8:].max() == -1


def test_crop_is_the_centre_at_any_aspect():
    pixels = np.zeros((40, 100), np.uint8)
    pixels[:, 30:70] = 255
    square = np.asarray(crop_resize(Image.fromarray(pixels), (40, 40)))
    assert square.min() == 255
    for size in [(1, 1), (7, 5), (64, 64), (3, 90), (90, 3)]:
        cropped = crop_resize(Image.fromarray(pixels), size)
        assert (cropped.height, cropped.width) == size


def test_reduction_is_antialiased():
    """A one-pixel checkerboard becomes mid-grey, not black, white or moire."""
    board = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(crop_resize(Image.fromarray(board), (32, 32))).astype(float)
    assert abs(small - 127.5).max() < 40
    assert abs(small.mean() - 127.5) < 2


def test_builds_without_the_folder(tmp_path):
    data = ImageFolder(root=tmp_path / "absent", size=256, num_classes=1000)
    assert data.shape == (3, 256, 256)
    assert data.num_classes == 1000
    assert data.class_names[:2] == ("0", "1")
    with pytest.raises(DataError, match="does not exist"):
        data.size("train")
    with pytest.raises(DataError, match="absent"):
        ImageFolder(root=tmp_path / "absent").class_names  # noqa: B018


def test_given_number_of_classes_does_not_touch_the_disk(folder, monkeypatch):
    data = ImageFolder(root=folder, num_classes=3)
    monkeypatch.setattr(os, "scandir", lambda *_: pytest.fail("listed"))
    monkeypatch.setattr(type(folder), "iterdir", lambda *_: pytest.fail("listed"))
    assert (data.num_classes, data.shape) == (3, (3, 64, 64))


def says(error, *words):
    for word in words:
        assert word in str(error.value), f"{word!r} missing in:\n{error.value}"


def test_bad_roots(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(DataError) as error:
        ImageFolder(root=file).size("train")
    says(error, "not a folder", str(file))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError) as error:
        ImageFolder(root=empty).size("train")
    says(error, "no pictures", "an empty folder", str(empty))
    (empty / "notes.txt").write_text("x")
    with pytest.raises(DataError) as error:
        ImageFolder(root=empty).size("train")
    says(error, "notes.txt", "png")


def test_bad_classes(folder):
    with pytest.raises(DataError) as error:
        ImageFolder(root=folder, num_classes=5).size("train")
    says(error, "5 classes", "3 subfolders", "ant", "num_classes=3")
    (folder / "dog").mkdir()
    with pytest.raises(DataError) as error:
        ImageFolder(root=folder).size("train")
    says(error, "class folder holds no pictures", str(folder / "dog"))
    (folder / "dog").rmdir()
    save(folder / "loose.png", plain())
    with pytest.raises(DataError) as error:
        ImageFolder(root=folder).size("train")
    says(error, "loose.png", "ant", "move")


def test_unreadable_pictures(tmp_path):
    whole = save(
        tmp_path / "a_whole.png",
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)),
    ).read_bytes()
    (tmp_path / "b_cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c_empty.jpg").write_bytes(b"")
    (tmp_path / "d_text.webp").write_text("this is not a picture")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "e_gone.png")
    data = ImageFolder(root=tmp_path, size=8)
    assert data.size("train") == 5  # a dangling link counts, so that its absence is seen
    data.read("train", 0)
    bad = [
        ("b_cut.png",),
        ("c_empty.jpg", "an empty file"),
        ("d_text.webp", "PNG, JPEG or WebP"),
        ("e_gone.png", "No such file"),
    ]
    for index, words in enumerate(bad, start=1):
        with pytest.raises(DataError) as error:
            data.read("train", index)
        says(error, "cannot be read", *words)
    (tmp_path / "a_whole.png").unlink()
    with pytest.raises(DataError, match="a_whole"):
        data.read("train", 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"size": [8]},
        {"size": [8, 0]},
        {"channels": 2},
        {"held_out": 1.0},
        {"num_classes": -1},
        {"root": ""},
    ],
)
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ImageFolder(**{"root": "x", **bad})

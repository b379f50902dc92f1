"""Over a hundred kinds of picture files as people have them, each with what must come of it.

`READABLE` holds what must be read right: a writer and the pixels it stands for, made with numpy and not with
the reader's own conversions. `UNREADABLE` holds what must be refused: a writer and a pattern of the cause. A
writer gets the path that the file should have. PNG files are assembled by hand, because Pillow cannot write
most of these kinds.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

HEIGHT, WIDTH = 32, 48
Writer = Callable[[Path], None]

# ---- the picture: smooth, so that JPEG keeps it, and unlike any turned or mirrored version of itself
_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH]
COLOUR = np.stack([40 + 4 * _X, 30 + 6 * _Y, 220 - 2 * _X - 2 * _Y], -1).astype(np.uint8)
GREY = (20 + 3 * _X + 2 * _Y).astype(np.uint8)
ALPHA = np.where(_X < WIDTH // 2, 255, np.where(_Y < HEIGHT // 2, 0, 128)).astype(np.uint8)
INK = np.stack(
    [255 - COLOUR[..., 0], 255 - COLOUR[..., 1], 255 - COLOUR[..., 2], (_X + _Y).astype(np.uint8)], -1
)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, -1)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[..., None] / 255
    return np.rint(colour * weight + 255 * (1 - weight)).astype(np.uint8)


def printed(ink: np.ndarray) -> np.ndarray:
    light = 255 - ink.astype(float)
    return np.rint(light[..., :3] * light[..., 3:] / 255).astype(np.uint8)


@dataclass(frozen=True)
class Readable:
    write: Writer
    pixels: np.ndarray
    tolerance: int = 0


READABLE: dict[str, Readable] = {}
UNREADABLE: dict[str, tuple[Writer, str]] = {}


# ---- PNG by hand
SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = (b"IEND", b"")
GREYS, COLOURS, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def assembled(*chunks: tuple[bytes, bytes]) -> bytes:
    return SIGNATURE + b"".join(chunk(*c) for c in chunks)


def header(
    width: int, height: int, bits: int, colour: int, interlace: int = 0, compression: int = 0
) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, compression, 0, interlace)


def rows(samples: np.ndarray, bits: int) -> bytes:
    """Samples [h, w] or [h, w, c] as unfiltered rows of `bits` bits a sample."""
    lines = []
    for line in samples.reshape(len(samples), -1).astype(np.int64):
        if bits == 16:
            packed = line.astype(">u2").tobytes()
        else:
            binary = (line[:, None] >> np.arange(bits - 1, -1, -1)) & 1
            packed = np.packbits(binary.reshape(-1).astype(np.uint8)).tobytes()
        lines.append(b"\0" + packed)
    return b"".join(lines)


def adam7(samples: np.ndarray, bits: int) -> bytes:
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    return b"".join(rows(samples[y::dy, x::dx], bits) for y, x, dy, dx in passes)


def png(
    samples: np.ndarray,
    bits: int,
    colour: int,
    *before: tuple[bytes, bytes],
    after: tuple = (),
    interlace: bool = False,
) -> bytes:
    height, width = samples.shape[:2]
    data = zlib.compress(adam7(samples, bits) if interlace else rows(samples, bits))
    return assembled(
        header(width, height, bits, colour, int(interlace)), *before, (b"IDAT", data), *after, END
    )


def put(data: bytes) -> Writer:
    return lambda path: path.write_bytes(data) and None


PLAIN = png(COLOUR, 8, COLOURS)


def read(name: str, data: bytes, pixels: np.ndarray, tolerance: int = 0) -> None:
    READABLE[name] = Readable(put(data), pixels, tolerance)


def bad(name: str, data: bytes, cause: str) -> None:
    UNREADABLE[name] = put(data), cause


LEVELS = {bits: GREY >> (8 - bits) for bits in (1, 2, 4, 8)}
for bits, levels in LEVELS.items():
    read(f"grey{bits}.png", png(levels, bits, GREYS), three(levels * (255 // (2**bits - 1))))
    key = int(levels[HEIGHT // 2, WIDTH // 2])
    shown = np.where(levels == key, 255, levels * (255 // (2**bits - 1))).astype(np.uint8)
    read(f"grey{bits}-key.png", png(levels, bits, GREYS, (b"tRNS", struct.pack(">H", key))), three(shown))
    tones = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), np.uint8)
    opacity = np.arange(2**bits, dtype=np.uint8)[::-1] * (255 // (2**bits - 1))
    table = (b"PLTE", tones.tobytes())
    read(f"palette{bits}.png", png(levels, bits, PALETTE, table), tones[levels])
    read(
        f"palette{bits}-alpha.png",
        png(levels, bits, PALETTE, table, (b"tRNS", opacity.tobytes())),
        over_white(tones[levels], opacity[levels]),
        1,
    )
    read(
        f"grey{bits}-interlaced.png",
        png(levels, bits, GREYS, interlace=True),
        three(levels * (255 // (2**bits - 1))),
    )

SHORT = np.where(np.arange(256) == 0, 0, 255).astype(np.uint8)
TONES = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
LOW = GREY % 4  # indices of which the first is transparent
read(
    "palette-short-alpha.png",
    png(LOW, 8, PALETTE, (b"PLTE", TONES.tobytes()), (b"tRNS", b"\0")),
    over_white(TONES[LOW], SHORT[LOW]),
)
DEEP = GREY.astype(np.int64) * 256 + 77
read("grey16.png", png(DEEP, 16, GREYS), three(np.rint(DEEP / 257).astype(np.uint8)))
read(
    "grey16-key.png",
    png(DEEP, 16, GREYS, (b"tRNS", struct.pack(">H", int(DEEP[9, 9])))),
    three(np.where(DEEP[9, 9] == DEEP, 255, np.rint(DEEP / 257)).astype(np.uint8)),
)
read(
    "grey16-interlaced.png", png(DEEP, 16, GREYS, interlace=True), three(np.rint(DEEP / 257).astype(np.uint8))
)
read("colour8.png", PLAIN, COLOUR)
read("colour8-interlaced.png", png(COLOUR, 8, COLOURS, interlace=True), COLOUR)
HIT = (COLOUR[5, 7] == COLOUR).all(-1)
KEYED = np.where(HIT[..., None], 255, COLOUR).astype(np.uint8)
read("colour8-key.png", png(COLOUR, 8, COLOURS, (b"tRNS", struct.pack(">3H", *COLOUR[5, 7].tolist()))), KEYED)
DEEP_COLOUR = COLOUR.astype(np.int64) * 256 + 5
read("colour16.png", png(DEEP_COLOUR, 16, COLOURS), COLOUR, 1)
read(
    "colour16-key.png",
    png(DEEP_COLOUR, 16, COLOURS, (b"tRNS", struct.pack(">3H", *DEEP_COLOUR[5, 7].tolist()))),
    KEYED,
    1,
)
read("grey-alpha8.png", png(np.stack([GREY, ALPHA], -1), 8, GREY_ALPHA), over_white(three(GREY), ALPHA), 1)
read(
    "grey-alpha16.png",
    png(np.stack([GREY, ALPHA], -1).astype(int) * 257, 16, GREY_ALPHA),
    over_white(three(GREY), ALPHA),
    1,
)
RGBA = np.concatenate([COLOUR, ALPHA[..., None]], -1)
read("colour-alpha8.png", png(RGBA, 8, COLOUR_ALPHA), over_white(COLOUR, ALPHA), 1)
read("colour-alpha16.png", png(RGBA.astype(int) * 257, 16, COLOUR_ALPHA), over_white(COLOUR, ALPHA), 1)
read("colour-alpha8-interlaced.png", png(RGBA, 8, COLOUR_ALPHA, interlace=True), over_white(COLOUR, ALPHA), 1)
read("gamma.png", png(COLOUR, 8, COLOURS, (b"gAMA", struct.pack(">I", 22222))), COLOUR)
read("bad-profile.png", png(COLOUR, 8, COLOURS, (b"iCCP", b"x\0\0not zlib")), COLOUR)
read("text.png", png(COLOUR, 8, COLOURS, (b"tEXt", b"Comment\0" + b"x" * 300_000)), COLOUR)
read(
    "text-after.png",
    png(COLOUR, 8, COLOURS, after=((b"zTXt", b"Comment\0\0" + zlib.compress(b"y" * 9000)),)),
    COLOUR,
)
read("private-chunk.png", png(COLOUR, 8, COLOURS, (b"prVt", b"\xff" * 50)), COLOUR)
read("bad-exif.png", png(COLOUR, 8, COLOURS, (b"eXIf", b"\xff\x00nonsense")), COLOUR)
read("cut-exif.png", png(COLOUR, 8, COLOURS, (b"eXIf", b"II*\0\x08\0\0\0\xff\xff\x12\x01")), COLOUR)
read(
    "odd-exif.png",
    png(COLOUR, 8, COLOURS, (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0")),
    COLOUR,
)
read("garbage-after.png", PLAIN + b"\xde\xad" * 500, COLOUR)
read("two-in-one.png", PLAIN + png(255 - COLOUR, 8, COLOURS), COLOUR)
PARTS = zlib.compress(rows(COLOUR, 8))
FRAGMENTS = [(b"IDAT", PARTS[i : i + 7]) for i in range(0, len(PARTS), 7)]
read("many-parts.png", assembled(header(WIDTH, HEIGHT, 8, COLOURS), (b"IDAT", b""), *FRAGMENTS, END), COLOUR)


# ---- through Pillow
def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.copy().save(out, kind, **options)  # a picture keeps settings of its last saving
    return out.getvalue()


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


PICTURE, INVERSE = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
INKS = Image.merge("CMYK", [Image.fromarray(INK[..., i].copy()) for i in range(4)])
FINE = {"quality": 100, "subsampling": 0}
STORED = {  # orientation -> what is stored so that the upright picture is COLOUR
    1: COLOUR,
    2: COLOUR[:, ::-1],
    3: COLOUR[::-1, ::-1],
    4: COLOUR[::-1],
    5: COLOUR.transpose(1, 0, 2),
    6: np.rot90(COLOUR, 1),
    7: np.rot90(COLOUR, 2).transpose(1, 0, 2),
    8: np.rot90(COLOUR, -1),
}
for value, stored in STORED.items():
    turned = Image.fromarray(np.ascontiguousarray(stored))
    read(f"orientation{value}.jpg", saved(turned, "JPEG", exif=oriented(value), **FINE), COLOUR, 3)
    read(f"orientation{value}.png", saved(turned, "PNG", exif=oriented(value)), COLOUR)
read(
    "orientation6.webp",
    saved(Image.fromarray(np.rot90(COLOUR).copy()), "WEBP", lossless=True, exif=oriented(6)),
    COLOUR,
)
read(
    "orientation6-tiff.png", saved(Image.fromarray(np.rot90(COLOUR).copy()), "TIFF", exif=oriented(6)), COLOUR
)

JPEG = saved(PICTURE, "JPEG", **FINE)
read("colour.jpg", JPEG, COLOUR, 3)
read("subsampled.jpg", saved(PICTURE, "JPEG", quality=95), COLOUR, 12)
read("progressive.jpg", saved(PICTURE, "JPEG", progressive=True, **FINE), COLOUR, 3)
read("grey.jpg", saved(Image.fromarray(GREY), "JPEG", quality=100), three(GREY), 3)
read("profile.jpg", saved(PICTURE, "JPEG", icc_profile=b"no profile at all", **FINE), COLOUR, 3)
read("comment.jpg", saved(PICTURE, "JPEG", comment=b"\0\xff" * 9000, **FINE), COLOUR, 3)
read("bad-exif.jpg", saved(PICTURE, "JPEG", exif=b"Exif\0\0\xff\x00nonsense", **FINE), COLOUR, 3)
read("garbage-after.jpg", JPEG + b"\0" * 777, COLOUR, 3)
read(
    "two-pictures.jpg",
    saved(PICTURE, "MPO", save_all=True, append_images=[INVERSE.copy()], **FINE),
    COLOUR,
    3,
)
CMYK_JPEG = saved(INKS, "JPEG", **FINE)
ADOBE = CMYK_JPEG.index(b"\xff\xee\x00\x0eAdobe")
read("cmyk.jpg", CMYK_JPEG, printed(INK), 4)
read(
    "cmyk-not-adobe.jpg", CMYK_JPEG[:ADOBE] + CMYK_JPEG[ADOBE + 16 :], printed(INK), 4
)  # inverted all the same, as everyone writes it


def ycck() -> bytes:
    """Inks as Photoshop keeps them: the three colours turned into YCbCr, all inverted, with Adobe's transform
    2."""
    c, m, y = (INK[..., i].astype(float) for i in range(3))
    luma = 0.299 * c + 0.587 * m + 0.114 * y
    planes = [luma, 128 + (y - luma) / 1.772, 128 + (c - luma) / 1.402, 255.0 - INK[..., 3]]
    raw = [
        Image.fromarray((255 - np.rint(p).clip(0, 255)).astype(np.uint8)) for p in planes
    ]  # Pillow inverts as it writes
    data = bytearray(saved(Image.merge("CMYK", raw), "JPEG", **FINE))
    data[data.index(b"\xff\xee\x00\x0eAdobe") + 15] = 2
    return bytes(data)


read("ycck.jpg", ycck(), printed(INK), 6)
read("lossless.webp", saved(PICTURE, "WEBP", lossless=True), COLOUR)
read("lossy.webp", saved(PICTURE, "WEBP", quality=95), COLOUR, 14)
read(
    "alpha.webp",
    saved(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True),
    over_white(COLOUR, ALPHA),
    1,
)
read(
    "animated.webp",
    saved(PICTURE, "WEBP", save_all=True, append_images=[INVERSE.copy()], lossless=True),
    COLOUR,
)
read("animated.png", saved(PICTURE, "PNG", save_all=True, append_images=[INVERSE.copy()]), COLOUR)
FEW = Image.fromarray(LOW)
FEW.putpalette(TONES[:4].tobytes())
OTHER = FEW.transpose(Image.Transpose.ROTATE_180)
read("gif.png", saved(FEW, "GIF"), TONES[LOW])
read(
    "gif-transparent.png",
    saved(FEW, "GIF", transparency=2),
    np.where((LOW == 2)[..., None], 255, TONES[LOW]).astype(np.uint8),
)
read("gif-animated.png", saved(FEW, "GIF", save_all=True, append_images=[OTHER]), TONES[LOW])
read("bmp.png", saved(PICTURE, "BMP"), COLOUR)
read("bmp-palette.png", saved(FEW, "BMP"), TONES[LOW])
read(
    "bmp-bits.png",
    saved(Image.fromarray(GREY > 100), "BMP"),
    three(np.where(GREY > 100, 255, 0).astype(np.uint8)),
)
read("tiff.png", saved(PICTURE, "TIFF"), COLOUR)
read("tiff-lzw.png", saved(PICTURE, "TIFF", compression="tiff_lzw"), COLOUR)
read("tiff-grey.png", saved(Image.fromarray(GREY), "TIFF"), three(GREY))
read("tiff-alpha.png", saved(Image.fromarray(RGBA), "TIFF"), over_white(COLOUR, ALPHA), 1)
read("tiff-pages.png", saved(PICTURE, "TIFF", save_all=True, append_images=[INVERSE.copy()]), COLOUR)
read("tiff-cmyk.png", saved(INKS, "TIFF"), printed(INK), 1)
read("tiff-ycbcr.png", saved(PICTURE.convert("YCbCr"), "TIFF"), COLOUR, 3)
read(
    "tiff-grey16.png",
    saved(Image.fromarray(DEEP.astype("<u2")), "TIFF"),
    three(np.rint(DEEP / 257).astype(np.uint8)),
)
read(
    "tiff-grey16-big-endian.png",
    saved(Image.fromarray(DEEP.astype(">u2")), "TIFF"),
    three(np.rint(DEEP / 257).astype(np.uint8)),
)
read(
    "tiff-grey32.png",
    saved(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
    three(np.rint(DEEP / 257).astype(np.uint8)),
)

LAB = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
PALE = COLOUR // 2 + 64  # within the colours that 8-bit CIELAB keeps well
read("tiff-cielab.png", saved(ImageCms.applyTransform(Image.fromarray(PALE), LAB), "TIFF"), PALE, 6)

# ---- wrong names for right files
read("jpeg.png", JPEG, COLOUR, 3)
read("png.jpg", PLAIN, COLOUR)
read("png.webp", PLAIN, COLOUR)
read("webp.jpeg", saved(PICTURE, "WEBP", lossless=True), COLOUR)
read("CAPITALS.PNG", PLAIN, COLOUR)
for odd in [
    "two\nlines.png",
    "tab\tand \x1b[31mescape.png",
    os.fsdecode(b"not utf-8 \xff\xfe.png"),
    " spaces around .png",
    "\N{GRINNING FACE}.png",
    "-rf.png",
    "--help.png",
    "n" * 251 + ".png",
    "a..png",
    "*?[x].png",
    "quote'\"`$(x).png",
    "back\\slash.png",
    "cafe\N{COMBINING ACUTE ACCENT}.png",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.png",
    "%2e%2e%2f.png",
]:
    read(odd, PLAIN, COLOUR)


def link_to(target: str) -> Writer:
    """A picture in a folder that is not listed, and a link to it."""

    def write(path: Path) -> None:
        hidden = path.parent / ".hidden"
        hidden.mkdir()
        (hidden / "whole.png").write_bytes(PLAIN)
        os.symlink(target, path)

    return write


def hard_link(path: Path) -> None:
    link_to(".hidden/whole.png")(path)
    path.unlink()
    os.link(path.parent / ".hidden" / "whole.png", path)


READABLE["link.png"] = Readable(link_to(".hidden/whole.png"), COLOUR)
READABLE["hard-link.png"] = Readable(hard_link, COLOUR)

# ---- sizes: the middle of a sliver has one colour, its ends another
MIDDLE = np.full((HEIGHT, WIDTH, 3), (10, 200, 90), np.uint8)


def sliver(width: int, height: int) -> np.ndarray:
    out = np.full((height, width, 3), 255, np.uint8)
    if width > height:
        out[:, width // 4 : width - width // 4] = (10, 200, 90)
    else:
        out[height // 4 : height - height // 4] = (10, 200, 90)
    return out


read("1x1.png", png(MIDDLE[:1, :1], 8, COLOURS), MIDDLE)
read("1x1.jpg", saved(Image.fromarray(MIDDLE[:1, :1]), "JPEG", **FINE), MIDDLE, 3)
read("1x1.webp", saved(Image.fromarray(MIDDLE[:1, :1]), "WEBP", lossless=True), MIDDLE)
read("2x1-bits.png", png(np.ones((1, 2), int), 1, GREYS), np.full_like(MIDDLE, 255))
read("30000x1.png", png(sliver(30000, 1), 8, COLOURS), MIDDLE)
read("1x30000.png", png(sliver(1, 30000), 8, COLOURS), MIDDLE)
read("30000x1.jpg", saved(Image.fromarray(sliver(30000, 1)), "JPEG", **FINE), MIDDLE, 3)
read("3000x40.png", png(sliver(3000, 40), 8, COLOURS), MIDDLE)


# ---- what cannot be read: nothing there, or nothing that is a picture
NOT_A_PICTURE = "no PNG, JPEG"
bad("empty.png", b"", "empty file")
bad("one-byte.png", b"\x89", NOT_A_PICTURE)
bad("zeros.png", b"\0" * 4096, NOT_A_PICTURE)
bad("ones.jpg", b"\xff" * 4096, NOT_A_PICTURE)
bad("noise.png", random.Random(0).randbytes(4096), NOT_A_PICTURE)
bad("prose.png", b"this is not a picture\n" * 50, NOT_A_PICTURE)
bad("page.jpg", b"<!doctype html><html><body>404 not found</body></html>", NOT_A_PICTURE)
bad("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', NOT_A_PICTURE)
bad("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", NOT_A_PICTURE)
bad("postscript.png", saved(PICTURE, "EPS"), NOT_A_PICTURE)
bad("document.png", saved(PICTURE, "PDF"), NOT_A_PICTURE)
bad("portable.png", saved(PICTURE, "PPM"), NOT_A_PICTURE)
bad("icon.png", saved(PICTURE, "ICO"), NOT_A_PICTURE)
bad("targa.png", saved(PICTURE, "TGA"), NOT_A_PICTURE)
bad("heif.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 500, NOT_A_PICTURE)
bad("zipped.png", gzip.compress(PLAIN, mtime=0), NOT_A_PICTURE)


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.png", PLAIN)
    return out.getvalue()


bad("archive.png", archive(), NOT_A_PICTURE)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


UNREADABLE["a-terabyte-of-nothing.png"] = sparse, NOT_A_PICTURE

# ---- cut short
for share in (10, 30, 50, 90):
    bad(f"cut{share}.png", PLAIN[: len(PLAIN) * share // 100], "damaged head|truncated|broken")
    bad(f"cut{share}.jpg", JPEG[: len(JPEG) * share // 100], "damaged head|truncated|broken")
    lossless = saved(PICTURE, "WEBP", lossless=True)
    bad(
        f"cut{share}.webp",
        lossless[: len(lossless) * share // 100],
        "damaged head|truncated|failed|could not|decode",
    )
bad("signature-only.png", SIGNATURE, NOT_A_PICTURE)
bad("header-only.png", PLAIN[:33], "truncated|damaged head")
bad("without-end.jpg", JPEG[:-2], "truncated")
bad("without-end.png", PLAIN[:-12], "truncated")
bad("cut-interlaced.png", png(COLOUR, 8, COLOURS, interlace=True)[:-40], "truncated")
bad("cut-gif.png", saved(FEW, "GIF")[:-60], "truncated|broken")
bad("cut-bmp.png", saved(PICTURE, "BMP")[:-900], "truncated")
bad(
    "cut-tiff.png",
    saved(PICTURE, "TIFF", compression="tiff_lzw")[:-40],
    "truncated|damaged head|decoder|read",
)


# ---- damaged
def flipped(data: bytes, at: int) -> bytes:
    return patched(data, at, bytes([data[at] ^ 0x10]))


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def with_header(**changes: int) -> bytes:
    fields = {"width": WIDTH, "height": HEIGHT, "bits": 8, "colour": COLOURS, **changes}
    return SIGNATURE + chunk(*header(**fields)) + PLAIN[33:]


BODY, FRAME = PLAIN.index(b"IDAT"), JPEG.index(b"\xff\xc0")
NOTED = png(COLOUR, 8, COLOURS, (b"tEXt", b"a\0hello"))
bad("bad-head-sum.png", flipped(PLAIN, 30), "checksum|damaged head")
bad("bad-data-sum.png", flipped(PLAIN, PLAIN.index(b"IEND") - 5), "checksum")
bad("flipped-bit.png", flipped(PLAIN, BODY + 40), "checksum")
bad("flipped-text.png", flipped(NOTED, NOTED.index(b"hello")), "checksum|damaged head")
DAMAGED = flipped(zlib.compress(rows(COLOUR, 8)), 60)
bad(
    "bad-stream.png",
    assembled(header(WIDTH, HEIGHT, 8, COLOURS), (b"IDAT", DAMAGED), END),
    "broken|truncated",
)
BAD_FILTER = b"\x09" + rows(COLOUR, 8)[1:]
bad(
    "bad-filter.png",
    assembled(header(WIDTH, HEIGHT, 8, COLOURS), (b"IDAT", zlib.compress(BAD_FILTER)), END),
    "broken|filter|unrecognized|truncated|unknown",
)
bad("no-width.png", with_header(width=0), NOT_A_PICTURE)
bad("three-bits.png", with_header(bits=3), "damaged head|mode")
bad("colour-type-7.png", with_header(colour=7), "damaged head|mode")
bad("no-palette.png", png(LOW, 8, PALETTE), "palette")
bad("no-data.png", assembled(header(WIDTH, HEIGHT, 8, COLOURS), END), "no image data")
bad(
    "jpeg-without-tables.jpg", JPEG[: JPEG.index(b"\xff\xdb")] + JPEG[FRAME:], "broken|truncated|damaged head"
)
bad("jpeg-12-bit.jpg", patched(JPEG, FRAME + 4, b"\x0c"), "broken|bits|damaged head|truncated")
bad("jpeg-no-height.jpg", patched(JPEG, FRAME + 5, b"\0\0"), "damaged head|broken")

# ---- bombs: little on the disk, much in memory
BOMB = b"\0" * 4_000_000
TOO_MANY = "more than 89,478,485"
FLAT = zlib.compress(b"\0" * 1251 * 10_000)
bad("bomb-100-million.png", assembled(header(10_000, 10_000, 1, GREYS), (b"IDAT", FLAT), END), TOO_MANY)
bad("bomb-billions.png", assembled(header(2**31 - 1, 2**31 - 1, 8, COLOURS), (b"IDAT", FLAT), END), TOO_MANY)
bad("bomb-sliver.png", assembled(header(100_000_000, 1, 8, GREYS), (b"IDAT", FLAT), END), TOO_MANY)
bad("bomb.jpg", patched(JPEG, FRAME + 5, b"\xff\xdc\xff\xdc"), TOO_MANY)
bad("bomb-gif.png", patched(saved(FEW, "GIF"), 6, b"\xff\xff\xff\xff"), TOO_MANY)
bad("bomb-bmp.png", patched(saved(PICTURE, "BMP"), 18, struct.pack("<ii", 60_000, 60_000)), TOO_MANY)
bad(
    "bomb-text.png",
    png(COLOUR, 8, COLOURS, (b"zTXt", b"Comment\0\0" + zlib.compress(BOMB))),
    "Decompressed data too large|damaged head",
)
bad(
    "bomb-text-after.png",
    png(COLOUR, 8, COLOURS, after=((b"zTXt", b"Comment\0\0" + zlib.compress(BOMB)),)),
    "Decompressed data too large",
)
bad(
    "bomb-profile.png",
    png(COLOUR, 8, COLOURS, (b"iCCP", b"x\0\0" + zlib.compress(BOMB))),
    "Decompressed data too large|damaged head",
)

# ---- pictures without a known white
bad("float.png", saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point")
bad("grey32.png", saved(Image.fromarray(GREY.astype(np.int32) * 10_000), "TIFF"), "32-bit grey")
bad("below-zero.png", saved(Image.fromarray(GREY.astype(np.int32) - 99), "TIFF"), "32-bit grey")


# ---- no files at all
def link_through_a_file(path: Path) -> None:
    (path.parent / ".file").write_bytes(b"x")
    os.symlink(".file/x.png", path)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's address is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


UNREADABLE["pipe.png"] = lambda path: os.mkfifo(path), "not a regular file"
UNREADABLE["socket.png"] = a_socket, "not a regular file"
UNREADABLE["device.png"] = lambda path: os.symlink("/dev/zero", path), "not a regular file"
UNREADABLE["link-to-nowhere.png"] = lambda path: os.symlink("nowhere.png", path), "No such file"
UNREADABLE["link-to-itself.png"] = lambda path: os.symlink(path.name, path), "symbolic links"
UNREADABLE["link-through-a-file.png"] = link_through_a_file, "Not a directory"
UNREADABLE["link-too-long.png"] = lambda path: os.symlink("n" * 300, path), "name too long"

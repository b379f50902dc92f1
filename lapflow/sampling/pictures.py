"""Pictures: sample grids, scales over time, bands, loss curves.

Tensors of pixels in [-1, 1] in, Pillow images out. Small pictures are enlarged by nearest neighbour, so that
a pixel stays a pixel. A series is drawn as its curve, a film as a strip of its frames or as an animated PNG.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lapflow.core.errors import BackendError
from lapflow.util.pixels import eight_bits

_GAP, _MARGIN = 4, 14
_INK, _FAINT, _EMPTY = (40, 40, 40), (120, 120, 120), (236, 236, 236)
_COLOURS = ("#1f77b4", "#d1495b", "#3a8f5c", "#8a5fbf", "#c77f2a", "#4a4a4a")


def to_uint8(samples: Tensor) -> np.ndarray:
    """Samples [b, c, *sizes] -> uint8 array [b, *sizes, c], as `eight_bits`. Raises `ConfigError` where a
    pixel is not a number."""
    return eight_bits(samples).cpu().movedim(1, -1).contiguous().numpy()


def from_pixels(pixels: np.ndarray) -> Image.Image:
    """One of `to_uint8`'s [h, w, c], c 1 or 3, as a picture."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def still(sample: Tensor) -> Tensor:
    """A sample [c, *sizes] on paper, [c, h, w]: an image as it is, a film as its frames side by side, a
    series as its curve [1, h, w]."""
    if sample.ndim == 4:
        framed = F.pad(sample, (0, 1), value=1.0)  # a white line after each frame
        return rearrange(framed, "c t h w -> c h (t w)")[..., :-1]
    return _curve(sample) if sample.ndim == 2 else sample


def _curve(series: Tensor) -> Tensor:
    """The channels of a series [c, n] as lines in [-1, 1], smaller where they leave it."""
    height, width = 48, max(96, series.shape[-1])
    paper = Image.new("L", (width, height), 255)
    values = series.detach().float().cpu() / max(1.0, series.abs().max().item())
    across = np.linspace(0, width - 1, series.shape[-1])
    for channel in values:
        down = (1 - channel.numpy()) / 2 * (height - 1)
        ImageDraw.Draw(paper).line(list(zip(across.tolist(), down.tolist())), fill=0)
    return torch.from_numpy(np.array(paper)).float()[None] / 127.5 - 1


def tile(sample: Tensor, channels: int) -> Image.Image:
    """One sample [c, *sizes] of `channels` per sub-band as a still picture, a pixel for a number: the mosaic
    of what has not 1 or 3 channels."""
    image = still(sample)
    return from_pixels(to_uint8(_mosaic(image, 1 if sample.ndim == 2 else channels)[None])[0])


def encode(sample: Tensor) -> bytes:
    """One sample [c, *sizes] as a PNG file's bytes; a film plays, eight frames a second, for ever."""
    frames = [sample[:, t] for t in range(sample.shape[1])] if sample.ndim == 4 else [sample]
    return _animated([tile(frame, frame.shape[0]) for frame in frames])


def animated_grid(films: Tensor, columns: int) -> bytes:
    """Films [b, c, t, h, w] playing side by side, as `image_grid` places them: the bytes of an animated
    PNG."""
    return _animated([image_grid(films[:, :, t], columns) for t in range(films.shape[2])])


def _animated(frames: Sequence[Image.Image]) -> bytes:
    file = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:], "duration": 125, "loop": 0} if frames[1:] else {}
    frames[0].save(file, "png", **more)
    return file.getvalue()


def image_grid(
    images: Tensor,
    columns: int,
    labels: Sequence[str] | None = None,
    *,
    row_titles: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    upscale: int | None = None,
) -> Image.Image:
    """Samples [b, c, *sizes] in reading order, `columns` to a row; thin white lines between them.

    `labels`: a caption above each image. `upscale`: the enlargement; by default small images become about 64
    pixels wide.
    """
    height, width = still(images[0]).shape[-2:]
    factor = upscale or max(1, 64 // max(height, width))
    side = height * factor, width * factor
    cells = {divmod(i, columns): _tile(image, images.shape[1], side) for i, image in enumerate(images)}
    captions = dict(zip(cells, labels, strict=True)) if labels else {}
    return _draw(side, cells, row_titles or (), column_titles or (), captions)


def scale_strip(frames: Sequence[tuple[float, Mapping[str, Tensor]]]) -> Image.Image:
    """The parts of one sample while it is made: a column per time, a row per name, all tiles of one size.

    `frames`: (t, {row name: image [c, h, w]}), for instance rows 'scale 1', 'scale 0' and 'image'; the
    fullest frame gives their order. A row that is missing at a time, a scale that is not active yet, is shown
    as a hatched tile.
    """
    fullest_first = sorted((list(parts) for _, parts in frames), key=len, reverse=True)
    rows = list(dict.fromkeys(name for names in fullest_first for name in names))
    everything = [image for _, parts in frames for image in parts.values()]
    channels = min(image.shape[0] for image in everything)
    side = _common_side(everything)
    cells = {
        (r, c): _tile(parts[name], channels, side) if name in parts else None
        for r, name in enumerate(rows)
        for c, (_, parts) in enumerate(frames)
    }
    return _draw(side, cells, rows, [f"t = {t:.2f}" for t, _ in frames], {})


def band_picture(bands: Mapping[int, Tensor], synthesized: Tensor) -> Image.Image:
    """The bands of one image {k: [c_k, h_k, w_k]}, coarse to fine, side by side, and the image [c, h, w]
    which they make.

    Residuals are faint: each band but the coarsest is drawn with the contrast its title states, zero at
    mid-grey. A band with several sub-bands per channel (wavelets, block-DCT) is drawn as their mosaic, its
    top left corner empty.
    """
    side = _common_side([*bands.values(), synthesized], target=144)
    channels, coarsest = synthesized.shape[0], max(bands)
    cells, titles = {}, []
    for column, k in enumerate(sorted(bands, reverse=True)):
        band = bands[k]
        peak = band.abs().max().clamp(min=1e-6).item()
        gain = 1 / max(peak, 1.0) if k == coarsest else 1 / peak
        cells[0, column] = _tile(band * gain, channels, side)
        size = "x".join(map(str, band.shape[1:]))
        titles.append(f"scale {k}\n{size}" + (f", contrast x{gain:.2g}" if abs(gain - 1) > 0.05 else ""))
    cells[0, len(bands)] = _tile(synthesized, channels, side)
    titles.append("sample\n" + "x".join(map(str, synthesized.shape[1:])))
    return _draw(side, cells, [], titles, {})


def loss_curve(
    log_rows: Sequence[Mapping[str, Any]], path: str | Path, losses: Sequence[str] | None = None
) -> None:
    """Draw the smoothed losses over steps, log scale, with the learning rate below, into the file `path`
    (png, svg, pdf).

    A row has 'step', any of the named `losses` (default: every key that begins with 'loss/', else 'loss') and
    perhaps 'learning_rate'; a row lacks the losses of scales that were not active. Raises `BackendError`
    without matplotlib.
    """
    names = losses or sorted({key for row in log_rows for key in row if key.startswith("loss/")}) or ["loss"]
    rates = _series(log_rows, "learning_rate")
    figure = _figure(8, 5 if len(rates[0]) else 4)
    from matplotlib.ticker import LogLocator, NullFormatter

    if len(rates[0]):
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        lower.plot(*rates, color="#777777", linewidth=1.2)
        lower.set(ylabel="learning rate", ylim=(0, None))
        lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    else:
        upper = lower = figure.subplots()
    for name, colour in zip(names, _COLOURS * len(names)):
        steps, values = _series(log_rows, name)
        upper.plot(steps, values, color=colour, alpha=0.18, linewidth=0.8)
        upper.plot(steps, smooth(values), color=colour, linewidth=1.8, label=_legend(name))
    upper.set(yscale="log", ylabel="loss (smoothed)")
    # A loss spans about a decade, where powers of ten alone leave an empty axis.
    upper.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    upper.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    upper.yaxis.set_minor_formatter(NullFormatter())
    upper.legend(frameon=False, loc="upper right")
    lower.set_xlabel("step")
    for panel in {upper, lower}:
        _plain(panel)
        panel.margins(x=0.01)
    figure.savefig(path, dpi=130)


def quality_against_work(points: Sequence[tuple[str, float, float]], path: str | Path) -> None:
    """Draw (name, multiply-adds per sample, Frechet ratio) as numbered points with a legend, both axes
    logarithmic, into the file `path`. Numbers go from the best ratio to the worst."""
    figure = _figure(10, 5.5)
    panel = figure.subplots()
    ranked = sorted(points, key=lambda point: point[2])
    for i, ((name, work, ratio), colour) in enumerate(zip(ranked, _COLOURS * len(ranked)), start=1):
        point = work / 1e6, ratio
        panel.plot(*point, "o", color=colour, markersize=5, label=f"{i}  {name}  {ratio:.2f}")
        side = -10 if i % 2 else 4  # neighbours in rank often stand beside each other
        panel.annotate(str(i), point, xytext=(side, 3), textcoords="offset points", fontsize=8, color=colour)
    panel.set(xscale="log", xlabel="multiply-adds per sample, millions")
    panel.set(yscale="log", ylabel="Frechet distance to held-out images, real training images = 1")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(_plain_number)
        axis.set_minor_formatter(_plain_number)
    _plain(panel)
    panel.margins(x=0.1, y=0.1)
    panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, handlelength=1)
    figure.savefig(path, dpi=130)


def _plain_number(value: float, _: int) -> str:
    """1, 1.5, 2, 3, 5 and their tens as they are; other ticks unlabelled."""
    mantissa = value / 10 ** math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:g}" if any(abs(mantissa - m) < 1e-9 for m in (1, 1.5, 2, 3, 5)) else ""


def _figure(width: float, height: float) -> Any:
    """A matplotlib figure to draw on. Raises `BackendError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(
            "drawing a curve needs matplotlib, which cannot be imported",
            got=str(error),
            remedy="pip install 'lapflow[demo]'",
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _plain(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, linewidth=0.6)


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean over a centred window of 4 % of the values, cut off at both ends; same length, never
    shifted."""
    half = max(1, len(values) // 50)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have a finite `key`."""
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def _legend(name: str) -> str:
    name = name.removeprefix("loss/")
    return f"scale {name[5:]}" if name.startswith("scale") and name[5:].isdigit() else name.replace("_", " ")


def _draw(
    side: tuple[int, int],
    cells: Mapping[tuple[int, int], Image.Image | None],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    captions: Mapping[tuple[int, int], str],
) -> Image.Image:
    """Tiles of size `side` = (h, w) at (row, column), None for an empty one, with titles and captions."""
    height, width = side
    rows, columns = (1 + max(cell[axis] for cell in cells) for axis in (0, 1))
    words = [*column_titles, *captions.values()]
    pitch_x = max([width, *(_extent(text)[0] + 6 for text in words)]) + _GAP
    caption = 20 if captions else 0
    pitch_y = height + caption + _GAP
    left = _MARGIN + max([0, *(_extent(text)[0] + 12 for text in row_titles)])
    top = _MARGIN + max([0, *(_extent(text)[1] + 6 for text in column_titles)])
    size = left + columns * pitch_x - _GAP + _MARGIN, top + rows * pitch_y - _GAP + _MARGIN
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for (r, c), tile in cells.items():
        x, y = left + c * pitch_x + (pitch_x - _GAP - width) // 2, top + r * pitch_y + caption
        canvas.paste(tile or _hatched(side), (x, y))
        if text := captions.get((r, c)):
            pen.text((x + width // 2, y - 6), text, fill=_INK, font=_font(), anchor="ms")
    for r, text in enumerate(row_titles):
        middle = top + r * pitch_y + caption + height // 2
        pen.text((left - 12, middle), text, fill=_INK, font=_font(), anchor="rm")
    for c, text in enumerate(column_titles):
        _title(pen, text, left + c * pitch_x + (pitch_x - _GAP) // 2, top - 8)
    return canvas


def _title(pen: ImageDraw.ImageDraw, text: str, x: int, bottom: int) -> None:
    """Centred lines that end at `bottom`; the ones after the first are fainter."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        y = bottom - 3 - 18 * (len(lines) - 1 - i)
        pen.text((x, y), line, fill=_FAINT if i else _INK, font=_font(), anchor="ms")


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)


def _extent(text: str) -> tuple[int, int]:
    lines = text.split("\n")
    return max(math.ceil(_font().getlength(line)) for line in lines), 18 * len(lines)


def _common_side(images: Sequence[Tensor], target: int = 96) -> tuple[int, int]:
    """Tile size (h, w): the largest of the samples' pictures, enlarged by a whole factor to about
    `target`."""
    height, width = (max(still(image).shape[axis] for image in images) for axis in (-2, -1))
    factor = max(1, round(target / max(height, width)))
    return height * factor, width * factor


def _tile(image: Tensor, channels: int, side: tuple[int, int]) -> Image.Image:
    """One image [c, h, w] of `channels` per sub-band, resized to `side` = (h, w) without interpolation."""
    return tile(image, channels).convert("RGB").resize((side[1], side[0]), Image.Resampling.NEAREST)


def _mosaic(image: Tensor, channels: int) -> Tensor:
    """[c, h, w] -> one picture of 1 or 3 channels.

    A channel count other than 1 or 3 (latents) is shown channel by channel. With n sub-bands per channel,
    stored as channel n i + d, sub-band d stands in a square mosaic; where one cell too many is left, it is
    the first.
    """
    channels = channels if channels in (1, 3) else 1
    parts = image.shape[0] // channels
    if parts == 1:
        return image
    across = math.ceil(math.sqrt(parts))
    down = math.ceil(parts / across)
    pieces = rearrange(image, "(c d) h w -> d c h w", c=channels)
    blank = pieces.new_full((across * down - parts, *pieces.shape[1:]), 0.85)
    pieces = torch.cat([blank, pieces] if len(blank) == 1 else [pieces, blank])
    return rearrange(pieces, "(r s) c h w -> c (r h) (s w)", r=down)


def _hatched(side: tuple[int, int]) -> Image.Image:
    height, width = side
    tile = Image.new("RGB", (width, height), _EMPTY)
    pen = ImageDraw.Draw(tile)
    for offset in range(-height, width, 10):
        pen.line([(offset, height), (offset + height, 0)], fill=(216, 216, 216), width=2)
    return tile

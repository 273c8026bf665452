"""Figures as files: PNG, PDF, and small SVG."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160  # of PNG files, and of the images inside SVG and PDF files
PLAIN: dict[Any, Any] = {"text.usetex": False}  # the numbers of the axes are made when a figure is saved
FORMATS = (".png", ".svg", ".pdf")
IMAGE = re.compile(rb'(?<="data:image/png;base64,)[^"]+')
COLOURS = 256  # the most of a palette
STEP = 16  # between the values of a channel, if there are more colours


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write the figure to each path, in the format of its suffix: one of `FORMATS`.

    The figure is laid out once, for the first file. To lay it out again would double the time.

    Example:
        `save_figure(figure, folder / "curves.svg", folder / "curves.png")`
    """
    from matplotlib import rc_context

    for path in paths:
        with atomic_write(path) as file, rc_context(PLAIN):
            if path.suffix == ".svg":
                file.write(svg_of(figure, DPI))
            else:
                undated = {"CreationDate": None} if path.suffix == ".pdf" else None
                figure.savefig(file, format=path.suffix[1:], dpi=DPI, metadata=undated)
        figure.set_layout_engine("none")


def svg_of(figure: Figure, dpi: float) -> bytes:
    """The figure as SVG. It has no date and fixed ids, so the bytes are the same each time.

    Images in the SVG, which are most of a figure of many curves, become two to six times smaller. Up to 256 colours
    stay as they are, in a palette. With more colours, for example where pale lines blend, each channel is rounded to
    multiples of 16.

    Args:
        figure: what to draw.
        dpi: the resolution of the images in the SVG.
    """
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "weightscale_fast", **PLAIN}):
        figure.savefig(file, format="svg", dpi=dpi, metadata={"Date": None})
    return IMAGE.sub(lambda found: _smaller(found.group()), file.getvalue())


def _smaller(png: bytes) -> bytes:
    """A PNG in base64, with fewer bytes."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))
    colours, index = _palette(pixels)
    if len(colours) > COLOURS:
        pixels = np.minimum((pixels.astype(np.int64) + STEP // 2) // STEP * STEP, 255).astype(np.uint8)
        pixels[pixels[..., 3] == 0] = 0  # a transparent pixel needs no colour
        colours, index = _palette(pixels)
    if len(colours) > COLOURS:
        image = Image.fromarray(pixels)
    else:
        image = Image.fromarray(index.astype(np.uint8))
        image.putpalette(colours.tobytes(), "RGBA")
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue())


def _palette(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The distinct colours [n, 4] of the pixels [height, width, 4], and each pixel's index [height, width]."""
    numbers = np.ascontiguousarray(pixels).view(np.uint32)[..., 0]
    colours, index = np.unique(numbers, return_inverse=True)
    return colours.view(np.uint8).reshape(-1, 4), index.reshape(numbers.shape)

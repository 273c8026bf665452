"""The HTML page of a comparison: the answer on top, figures, and tables. It needs no other file."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ..figures.save import DPI, svg_of
from ..files import atomic_write
from ..report.page import Picture, figure_html, fill_template
from .pictures import difference_map, growth_curve, leading_curves
from .sentences import answer
from .settings import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .result import Comparison

FIGURES: tuple[tuple[Callable[[Comparison], Axes], str], ...] = (
    (
        difference_map,
        "Each row is a layer, the first on top, and each column is a step. Grey cells have the same bits in both runs, "
        "and a dashed line is where that ends. A horizontal stripe of one colour is a layer that moves more in one "
        "run, and speckles without a colour are chance.",
    ),
    (
        growth_curve,
        "A difference of rounding begins small, grows by about the same factor from step to step, and levels off at "
        "the noise of repeats. A curve that levels off above the noise is a real difference.",
    ),
    (
        leading_curves,
        "These layers differ first. Look for a line and its dashes that part and stay apart; where they cross back "
        "and forth, the layer moves as much in both runs.",
    ),
)


def write_page(comparison: Comparison, path: Path) -> Path:
    """Write the page, all of it or nothing."""
    with atomic_write(path) as file:
        file.write(page(comparison).encode())
    return path


def page(comparison: Comparison) -> str:
    """The page. Every text that came from outside is escaped."""
    sentence, *details = answer(comparison)
    items = "\n".join(f"<li>{escape(line)}</li>" for line in details)
    return fill_template(
        "comparison/template.html",
        title=escape(f"{comparison.title_a} against {comparison.title_b}"),
        answer=escape(f"{sentence[:1].upper()}{sentence[1:]}."),
        details=f'<ul class="details">\n{items}\n</ul>' if details else "",
        figures="\n".join(figure_html(_picture(figure(comparison), reading)) for figure, reading in FIGURES),
        given=_given(comparison),
        layers="\n".join(_layer_row(i, comparison) for i in comparison.order.tolist()),
        unit=escape(comparison.unit),
        visible=f"{comparison.visible:.2g}",
    )


def _picture(ax: Axes, reading: str) -> Picture:
    return Picture(ax.get_title(loc="left"), svg_of(cast("Figure", ax.figure), DPI), reading, half=False)


def _given(comparison: Comparison) -> str:
    if not comparison.given:
        return "<h2>Given differently</h2>\n<p>Nothing that the records hold: settings, rates, versions.</p>"
    rows = "\n".join(
        f"<tr><th scope=row>{escape(what)}</th><td>{escape(plain(a))}</td><td>{escape(plain(b))}</td></tr>"
        for what, a, b, _ in comparison.given
    )
    head = "<thead><tr><th></th><th>A</th><th>B</th></tr></thead>"
    return f'<h2>Given differently</h2>\n<table class="plain">{head}<tbody>\n{rows}\n</tbody></table>'


def _layer_row(i: int, comparison: Comparison) -> str:
    cells = [
        f"{comparison.numel[i]:,}",
        _step(comparison.step_at(comparison.first_rows[i])),
        _step(comparison.step_at(comparison.beyond_rows[i])),
        f"{comparison.relative[:, i].max():.2g}",
        f"{np.median(comparison.log2[:, i]):.2g}",
    ]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f'<tr><td class="name">{escape(comparison.names[i])}</td>{numbers}</tr>'


def _step(step: int | None) -> str:
    return "never" if step is None else f"{step:,}"

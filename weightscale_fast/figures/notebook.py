"""Figures that a notebook shows when they are the last line of a cell."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure with a picture for notebooks. It is not in pyplot, so nothing has to close it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


class ShownAxes(Axes):
    """Axes whose picture is that of their figure."""

    def _repr_png_(self) -> bytes:
        figure = self.get_figure(root=True)
        assert isinstance(figure, ShownFigure)
        return figure._repr_png_()

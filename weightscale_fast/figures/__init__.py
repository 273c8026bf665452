"""The figures. Each is a pure function `(data, ax=None) -> Axes`, or `(data) -> Figure` if it has several panels.

Without `ax` a function makes its own figure, which pyplot does not know. `ax.figure.savefig("curves.svg")` saves it. As
the last line of a notebook cell it is shown. For `plt.show()`, or to draw several figures on one page, pass your own
axes. Legends and colour bars are beside the axes, so make the page with `layout="constrained"`. No global setting of
matplotlib changes.

A history of many steps is thinned before it is drawn (see `sampling`). So 160 layers with 10,000 steps are drawn fast
and take less than 1 MB as SVG.
"""

from .curves import clustered_curves, rwc_curves
from .heat import heat_map, moved_fraction
from .multiples import small_multiples
from .panels import group_panels, pca_panels
from .phases import phases
from .plane import pca_map, scree
from .step_sizes import step_sizes

__all__ = [
    "clustered_curves",
    "group_panels",
    "heat_map",
    "moved_fraction",
    "pca_map",
    "pca_panels",
    "phases",
    "rwc_curves",
    "scree",
    "small_multiples",
    "step_sizes",
]

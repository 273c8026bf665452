"""The figures: pure functions `(data, ax=None) -> Axes`, and of several panels `(data) -> Figure`.

Without `ax` each makes its own light figure outside pyplot: `ax.figure.savefig("curves.svg")` saves it, and as the last
line of a notebook cell `ax.figure` shows it. For `plt.show()`, or for several on one page, pass axes of your own.
Legends and colour bars stand beside the axes, so give such a figure `layout="constrained"`. No global setting of
matplotlib is touched.

A history of many steps is thinned before it is drawn (see `sampling`), so that 160 layers of 10,000 steps stay fast and
below 1 MB as SVG.
"""

from .curves import clustered_curves, rwc_curves
from .heat import heat_map, moved_fraction
from .multiples import small_multiples
from .panels import group_panels, pca_panels
from .phases import phases
from .plane import pca_map, scree

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
]

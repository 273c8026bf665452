"""Draws the pictures of docs/health.md, one for each kind of finding, from runs that were kept.

    python -m bench.faults --keep FOLDER        # some minutes
    python -m bench.faults.pictures FOLDER      # writes docs/findings, and the lines that are quoted in docs/health.md

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

import weightscale_fast as wsf
from weightscale_fast.analysis.medians import finite_median
from weightscale_fast.figures.style import (
    CLUSTER_COLOURS,
    GRID_COLOUR,
    INK,
    axes_for,
    plain_text,
    step_axis,
    styled,
    tint,
)
from weightscale_fast.files import atomic_write
from weightscale_fast.health import limits
from weightscale_fast.health.medians import median_of_others

from .judge import FAULTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

DOCS = Path(__file__).parents[2] / "docs"
SIZE = (7.0, 2.6)  # inches
DPI = 150
COLOURS = 64  # of a PNG
OTHERS = "#c4c7cb"
LIMIT = "#D55E00"
DEEPEST = 1e-8  # of the highest number: the lowest that is drawn
APART = 0.1  # the least distance of two names, of the height

# A run that shows the finding well. A record holds sums over all ranks, so it cannot show replicas that part.
EXAMPLES = {
    "not_finite": "transformer-nan_in_a_batch",
    "runaway": "transformer-layer_gradient_explodes",
    "others_stopped": "recurrent-saturated_sigmoid",
    "stopped": "transformer-dead_relu_in_mid_run",
    "all_stopped": "transformer-loss_weight_0_in_mid_run",
    "stuck": "residual-bfloat16_lost",
    "sparse": "transformer-most_channels_masked",
    "still": "transformer-not_in_optimizer",
    "frozen": "transformer-frozen_by_mistake",
    "slow": "transformer-low_rate_adam",
    "fast": "transformer-group_rate_high",
    "small_step": "transformer-clip_too_tight_adam",
    "large_step": "transformer-never_zeroed_adam",
    "shrinking": "transformer-too_much_decay_adamw",
    "growing": "transformer-high_rate_adam",
    "spike": "transformer-rate_spike",
    "skipped": "transformer-scaler_skips_fused",
}


class Drawn(NamedTuple):
    """What a picture shows: a number of each layer at each step, and the limit of it."""

    values: FloatArray  # [S, L]
    label: str  # of the y axis
    limit: FloatArray | float | None = None  # [S]
    limit_name: str = "limit"
    scale: str = "log"
    percent: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kept", type=Path, metavar="FOLDER", help="where python -m bench.faults --keep put the runs")
    kept: Path = parser.parse_args().kept
    (DOCS / "findings").mkdir(exist_ok=True)
    page, missing = (DOCS / "health.md").read_text(), []
    for kind, run in EXAMPLES.items():
        history = wsf.RWCHistory.load(kept / run)
        findings = [finding for finding in wsf.check_health(history) if finding.kind == kind]
        if not findings:
            missing.append(f"{run} has no finding of the kind {kind}")
            continue
        figure = draw(history, findings, run)
        write_png(figure, DOCS / "findings" / f"{kind}.png")
        page = with_line(page, kind, str(findings[0]))
    with atomic_write(DOCS / "health.md") as file:
        file.write(page.encode())
    print(*missing, sep="\n", file=sys.stderr)
    return bool(missing)


def with_line(page: str, kind: str, line: str) -> str:
    """The page with this line quoted in the section of the kind."""
    quoted = textwrap.fill(line, 118, initial_indent="> ", subsequent_indent="> ", break_on_hyphens=False)
    return re.sub(rf"(?<=### {kind}\n\n)(?:> .*\n)+", lambda found: f"{quoted}\n", page)


@styled
def draw(history: wsf.RWCHistory, findings: Sequence[wsf.Finding], run: str) -> Figure:
    """Draw a run that has these findings of one kind.

    Args:
        history: the record.
        findings: of one kind. Those that became certain with the first one are drawn.
        run: the name of the run, NETWORK-FAULT.
    """
    first = findings[0]
    network, _, fault = run.partition("-")
    ax = axes_for(None, first.kind, f"{network}: {FAULTS[fault].text}", SIZE)
    names = [name for finding in findings if finding.last == first.last for name in (finding.layer, *finding.others)]
    layers = [history.names.index(name) for name in names]
    draw_values(ax, history, what_to_draw(first, history, layers[0]), layers)
    mark_steps(ax, first)
    return ax.figure  # type: ignore[return-value]


def what_to_draw(finding: wsf.Finding, history: wsf.RWCHistory, layer: int) -> Drawn:
    """What the finding is about. `layer` is the first that it names."""
    kind, rwc = finding.kind, history.rwc
    step_limits = {"stuck": limits.LOST, "small_step": limits.SMALL_STEP, "large_step": limits.LARGE_STEP}
    if kind in step_limits:
        with np.errstate(invalid="ignore", divide="ignore"):
            share = history.step_per_lr / history.implied_step
        scale = "linear" if kind == "large_step" else "log"
        return Drawn(share, "step / implied step", step_limits[kind], scale=scale)
    if kind == "sparse":
        return Drawn(history.moved_fraction, "weights that move", limits.SPARSE, percent=True)
    if kind in ("growing", "shrinking"):
        limit = limits.GROWING if kind == "growing" else None  # of the weights of 8 blocks ago, here the first ones
        return Drawn(history.prev_l1 / history.prev_l1[0], "Σ|w| / Σ|w| at first", limit)
    if kind == "skipped":
        share = by_block(history.skipped[:, None].astype(float), np.mean)
        return Drawn(share, "steps skipped", limits.SKIPPING, scale="linear", percent=True)
    if kind == "slow":
        return Drawn(rwc, "RWC", limits.SLOW)
    if kind == "fast":
        return Drawn(rwc, "RWC", limits.FAST, "limit of a network")
    others = median_of_others(by_block(rwc, np.median))[:, layer]
    if kind == "stopped":
        return Drawn(rwc, "RWC", limits.STOPPED_IF_FALLEN * others, "1/100 of others")
    if kind == "runaway":
        return Drawn(rwc, "RWC", limits.RUNAWAY_IF_RISEN * others, "10 times others")
    return Drawn(rwc, "RWC")


def by_block(values: FloatArray, function: Callable[..., FloatArray]) -> FloatArray:
    """A number of each block of the values [S, L], at each of its steps: [S, L]."""
    blocks = [values[i : i + limits.BLOCK] for i in range(0, len(values), limits.BLOCK)]
    return np.concatenate([np.broadcast_to(function(block, axis=0), block.shape) for block in blocks])


def draw_values(ax: Axes, history: wsf.RWCHistory, drawn: Drawn, layers: Sequence[int]) -> None:
    """Draw all layers in grey; these layers in colour, or the median of all if they are all."""
    from matplotlib.ticker import PercentFormatter

    steps, values = history.steps, set_height(ax, drawn)
    L = values.shape[1]  # 1 if it is about no layers
    chosen = [] if len(layers) >= L else list(layers)
    for i in set(range(L)) - set(chosen):
        ax.plot(steps, values[:, i], color=OTHERS, linewidth=0.7)
    colours = [CLUSTER_COLOURS[i if len(chosen) <= limits.NAMED else 0] for i in range(len(chosen))]
    for i, colour in zip(chosen, colours, strict=True):
        ax.plot(steps, values[:, i], color=colour, linewidth=1.8 if len(chosen) <= limits.NAMED else 0.9)
    if 0 < len(chosen) <= limits.NAMED:
        named = zip(chosen, colours, strict=True)
        ends = {plain_text(history.names[i]): (last(values[:, i]), colour) for i, colour in named}
    else:
        middle = finite_median(values[:, chosen or range(L)], axis=1)
        name = f"{len(chosen)} layers" if chosen else f"median of {L}" if L > 1 else "all layers"
        ends = {name: (last(middle), CLUSTER_COLOURS[0])}
        if not chosen:
            ax.plot(steps, middle, color=CLUSTER_COLOURS[0], linewidth=1.8)
    if drawn.limit is not None:
        limit = np.broadcast_to(drawn.limit, len(steps))
        ax.plot(steps, limit, color=LIMIT, linewidth=1.2, linestyle=(0, (4, 2)))
        ends[drawn.limit_name] = last(limit), LIMIT
    ax.set_ylabel(drawn.label)
    if drawn.percent:
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y", color=GRID_COLOUR)
    ax.set_axisbelow(True)
    step_axis(ax, 1, float(steps[-1]), history.unit)
    name_ends(ax, ends)


def set_height(ax: Axes, drawn: Drawn) -> FloatArray:
    """Set the y axis, and return the values to draw. A log axis has no 0: it is drawn at the bottom and named there."""
    values = drawn.values
    shown = np.concatenate([values.ravel(), np.ravel(np.nan if drawn.limit is None else drawn.limit)])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if drawn.scale == "linear":
        ax.set_ylim(0, 1.15 * shown.max())
        return values
    low, high = (float(number) for number in np.quantile(shown, [0.002, 1]))
    has_0 = bool((values <= 0).any()) and low > DEEPEST * high
    low = max(low, DEEPEST * high) / 2
    if has_0:
        low = 10 ** (np.floor(np.log10(low)) - 0.5)  # between two numbers of the axis
    ax.set_yscale("log")
    ax.set_ylim(low / 1.2 if has_0 else low, 3 * high)
    if has_0:
        ax.annotate("0", (0, 0), (-4, 0), "axes fraction", "offset points", ha="right", va="center", fontsize=8)
    return np.where(values <= 0, low, values) if has_0 else np.where(values <= 0, low / 1e3, values)


def last(curve: FloatArray) -> float:
    """The last finite number of a curve."""
    return float(curve[np.isfinite(curve)][-1])


def name_ends(ax: Axes, ends: dict[str, tuple[float, str]]) -> None:
    """Write names at the right, at the heights where their curves end, and not over each other."""
    to_height = ax.transData + ax.transAxes.inverted()
    wanted = {name: float(np.clip(to_height.transform((1, end))[1], 0, 1)) for name, (end, _) in ends.items()}
    height = -1.0
    for name in sorted(wanted, key=wanted.__getitem__):
        height = max(wanted[name], height + APART)
        colour = ends[name][1]
        ax.annotate(name, (1, height), (4, 0), "axes fraction", "offset points", va="center", fontsize=8, color=colour)


def mark_steps(ax: Axes, finding: wsf.Finding) -> None:
    """A line at the step since which it is so, and a band up to the step at which it was certain; and both in words."""
    ax.axvspan(finding.step, finding.last, color=tint(CLUSTER_COLOURS[0], 0.12), linewidth=0, zorder=0)
    ax.axvline(finding.step, color=INK, linewidth=1, zorder=1.5)
    words = f"since step {finding.step}" + (f", certain at {finding.last}" if finding.last > finding.step else "")
    if finding.kind == "not_finite":
        end = ax.get_xlim()[1]
        ax.text((finding.step + end) / 2, 0.5, "NaN", transform=ax.get_xaxis_transform(), ha="center", color=INK)
    ax.annotate(words, (1, 1), (0, 20), "axes fraction", "offset points", ha="right", fontsize=8, color=INK)


def write_png(figure: Figure, path: Path) -> None:
    """Write a small PNG: few colours, and no date."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    with atomic_write(path) as png:
        Image.open(file).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(png, "png", optimize=True)


if __name__ == "__main__":
    sys.exit(main())

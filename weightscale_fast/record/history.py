"""RWCHistory: the record of a run in memory, as numpy arrays.

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightScaleError
from ..extras import import_extra
from ..files import write_csv
from ..ratios import check_definition, l2_ratio, mean_ratio, norm_ratio
from ..text import count, listing
from .observed import Observed
from .rates import Rates
from .rows import L2, SKIPPED, Rows
from .run_folder import RunFolder
from .settings import plain_settings
from .writer_lock import FolderTakenError

if TYPE_CHECKING:
    from pandas import DataFrame

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MOST_UNIT = 60  # letters; settings may be a stranger's, and a figure needs long for a long text


@dataclass(frozen=True, eq=False, repr=False)
class RWCHistory:
    """What every layer did at every recorded step.

    Args:
        names: the layers' names, L of them, in network order.
        numel: [L] weights of each layer.
        kinds: the kind of each layer (`"conv"`, `"linear"`, ...), L of them.
        steps: [S] the optimizer step after which each row was recorded, rising.
        delta_l1: [S, L] sum of |w_t - w_prev| (numerator of Eq. 1, WeightScale; arXiv 2011.06735).
        prev_l1: [S, L] sum of |w_prev| (denominator of Eq. 1).
        moved: [S, L] number of weights that changed at all.
        ratio_sum: [S, L] sum of |w_t - w_prev| / |w_prev|, if the definition is `"mean_ratio"`.
        definition: what `rwc` is, `"norm_ratio"`, `"mean_ratio"` or `"l2_ratio"`.
        every: optimizer steps from one row to the next.
        baseline: what w_prev is: with `"last_row"` the weights at the row before, `every` steps ago; with
            `"before_step"` those before the row's own step.
        settings: the settings that the run was given: model, data, seed, hyper-parameters.
        dtypes: the dtype of each layer (`"float32"`, `"bfloat16"`, ...), L of them; empty if they are not known.
        flags: [S] uint8, the bits of each row. 1: a gradient scaler skipped a step of it (see `skipped`); 2: it is the
            first row after a resume. All 0 by default.
        rates: the learning rate and the weight decay of each layer at each row, if an optimizer was watched; see `lr`.
        observed: what the monitor saw beside the weights: the optimizer, and why layers stood still.
        delta_l2: [S, L] L2 norm of w_t - w_prev, the root of the sum of its squares; None, like the next two, if L2 was
            not recorded (`RWCMonitor(l2=True)`).
        prev_l2: [S, L] L2 norm of w_prev.
        delta_max: [S, L] the largest |w_t - w_prev| of a weight.

    Example:
        >>> import numpy as np
        >>> history = RWCHistory(
        ...     names=("conv", "fc"), numel=np.array([9, 4]), kinds=("conv", "linear"), steps=np.array([1, 2]),
        ...     delta_l1=np.array([[1.0, 0.0], [2.0, 1.0]]), prev_l1=np.array([[4.0, 0.0], [4.0, 2.0]]),
        ...     moved=np.array([[9, 0], [3, 4]]))
        >>> history.rwc
        array([[0.25, 0.  ],
               [0.5 , 0.5 ]])
        >>> history["fc"]
        array([0. , 0.5])
        >>> history.select(layers="fc")
        RWCHistory(1 layer, 4 weights, 2 rows: optimizer steps 1 to 2)
    """

    names: tuple[str, ...]
    numel: IntArray
    kinds: tuple[str, ...]
    steps: IntArray
    delta_l1: FloatArray
    prev_l1: FloatArray
    moved: IntArray
    ratio_sum: FloatArray | None = None
    definition: str = "norm_ratio"
    every: int = 1
    baseline: str = "last_row"
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    flags: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    rates: Rates | None = None
    observed: Observed = field(default_factory=Observed)
    delta_l2: FloatArray | None = None
    prev_l2: FloatArray | None = None
    delta_max: FloatArray | None = None

    def __post_init__(self) -> None:
        check_definition(self.definition)
        S, L = len(self.steps), len(self.names)
        if np.any(np.diff(self.steps) <= 0):
            raise ValueError(f"steps must rise from row to row, got {self.steps.tolist()[:5]}, ...")
        if len(self.numel) != L or len(self.kinds) != L:
            raise ValueError(
                f"names, numel and kinds must be as long as each other, got {L}, {len(self.numel)}, {len(self.kinds)}"
            )
        if len(self.dtypes) not in (0, L):
            raise ValueError(f"dtypes must be one of each of the {L} layers, or none, got {len(self.dtypes)}")
        for name in ("delta_l1", "prev_l1", "moved", "ratio_sum", *L2):
            array = getattr(self, name)
            if array is not None and array.shape != (S, L):
                raise ValueError(f"{name} must be [steps, layers] = [{S}, {L}], got {list(array.shape)}")
        if self.definition == "mean_ratio" and self.ratio_sum is None:
            raise ValueError('definition="mean_ratio" needs ratio_sum, got None')
        missing = [name for name in L2 if getattr(self, name) is None]
        if missing and (len(missing) < len(L2) or self.definition == "l2_ratio"):
            needs = f"definition={self.definition!r} needs" if len(missing) == len(L2) else "they go together:"
            raise ValueError(f"{needs} delta_l2, prev_l2 and delta_max, got no {' and no '.join(missing)}")
        if not len(self.flags):
            object.__setattr__(self, "flags", np.zeros(S, np.uint8))
        if self.flags.shape != (S,):
            raise ValueError(f"flags must be [steps] = [{S}], got {list(self.flags.shape)}")
        shape = (S, L) if self.rates is None else (len(self.rates), len(self.rates.rate_of))
        if shape != (S, L):
            raise ValueError(f"rates must be of [steps, layers] = [{S}, {L}], got {list(shape)}")
        if len(self.observed.implied_step) not in (0, L):
            raise ValueError(f"observed must be of {L} layers, got {len(self.observed.implied_step)}")

    def __len__(self) -> int:
        """The number of recorded rows."""
        return len(self.steps)

    def __repr__(self) -> str:
        rows = count(len(self), "row")
        if len(self):
            rows += f": {self.unit}s {self.steps[0]:,} to {self.steps[-1]:,}"
        return f"RWCHistory({count(len(self.names), 'layer')}, {count(int(self.numel.sum()), 'weight')}, {rows})"

    def __getitem__(self, layer: str) -> FloatArray:
        """[S] the relative weight change of one layer, by its name.

        Raises:
            KeyError: the record has no such layer.
            TypeError: `layer` is no name; `select` takes steps and expressions.
        """
        if not isinstance(layer, str):
            raise TypeError(f"a history is indexed by a layer's name, got {type(layer).__name__}; see select()")
        if layer not in self.names:
            raise KeyError(f"no layer {layer!r}; the record has {listing(self.names)}")
        return self.rwc[:, self.names.index(layer)]

    @property
    def rwc(self) -> FloatArray:
        """[S, L] the relative weight change by the run's definition."""
        if self.ratio_sum is not None and self.definition == "mean_ratio":
            return mean_ratio(self.ratio_sum, self.numel)
        if self.delta_l2 is not None and self.prev_l2 is not None and self.definition == "l2_ratio":
            return l2_ratio(self.delta_l2, self.prev_l2)
        return norm_ratio(self.delta_l1, self.prev_l1)

    @property
    def moved_fraction(self) -> FloatArray:
        """[S, L] the share of each layer's weights that changed at all, 0 to 1."""
        return self.moved / np.maximum(self.numel, 1)

    @property
    def rms_step(self) -> FloatArray:
        """[S, L] the root of the mean square of a weight's change: `delta_l2` / sqrt(`numel`).

        Raises:
            WeightScaleError: L2 was not recorded.
        """
        if self.delta_l2 is None:
            raise WeightScaleError("this record has no delta_l2: record with RWCMonitor(l2=True) to have rms_step")
        return self.delta_l2 / np.sqrt(np.maximum(self.numel, 1))

    @property
    def lr(self) -> FloatArray:
        """[S, L] the learning rate of each layer at the step of each row, as the optimizer's groups had it.

        NaN where it is not known: no optimizer was watched, it does not train the layer, it has no rate that is a
        number, or the row is of a CUDA graph's replay. With `pipeline=True` the layers of other ranks have none.
        """
        return self._per_layer("lr")

    @property
    def weight_decay(self) -> FloatArray:
        """[S, L] the weight decay of each layer, as `lr`. 0 for an optimizer without weight decay."""
        return self._per_layer("weight_decay")

    def _per_layer(self, name: str) -> FloatArray:
        if self.rates is None:
            return np.full((len(self), len(self.names)), np.nan)
        return self.rates.of_layers(getattr(self.rates, name))

    @property
    def step_per_lr(self) -> FloatArray:
        """[S, L] the mean change of a weight in units of the learning rate: mean |w_t - w_prev| / lr.

        It is the same for layers of any size and at any rate. Adam and AdamW move a weight by about 0.05 to 0.4 rates
        at a step, methods of the gradient's sign by 1, and SGD by the mean gradient. With a `horizon` above 1 the
        change is that of several steps. NaN where the rate is not known or 0.

        Example:
            >>> rates = Rates(lr=np.array([[0.5]]), weight_decay=np.zeros((1, 1)), rate_of=np.zeros(1, np.int32))
            >>> one = np.array([[6.0]])
            >>> RWCHistory(("fc",), np.array([4]), ("linear",), np.array([1]), one, one, one, rates=rates).step_per_lr
            array([[3.]])
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.lr == 0, np.nan, self.delta_l1 / np.maximum(self.numel, 1) / self.lr)

    @property
    def implied_step(self) -> FloatArray:
        """[S, L] the RMS of a step in units of the learning rate that the optimizer implies, whatever the gradients.

        For Adam and AdamW it is sqrt((1 - beta1) / (1 + beta1)), 0.23 for beta1 = 0.9; for methods of the gradient's
        sign 1; for Muon it depends on the shape. NaN where the optimizer implies none, as SGD, or is not known.
        """
        return self.observed.implied(self.steps, len(self.names))

    @property
    def skipped(self) -> NDArray[np.bool_]:
        """[S] whether a gradient scaler skipped a step of the row.

        Only fused optimizers leave such rows. In a skipped step no layer moves. To leave these rows out of an analysis,
        use `history.select(steps=~history.skipped)`.
        """
        return (self.flags & SKIPPED).astype(bool)

    @property
    def horizon(self) -> int:
        """The optimizer steps between w_prev and w_t."""
        return 1 if self.baseline == "before_step" else self.every

    @property
    def unit(self) -> str:
        """What `steps` count: `"optimizer step"`, or the value of `settings["unit"]`, for example `"epoch"`."""
        return str(self.settings.get("unit", "optimizer step"))[:MOST_UNIT]

    def select(
        self,
        layers: str | Callable[[str], bool] | None = None,
        steps: slice | NDArray[np.bool_] | None = None,
    ) -> RWCHistory:
        """The part of the record with these layers and rows.

        Args:
            layers: a regular expression that is searched in the name, or a predicate on the name.
            steps: a slice of rows (`slice(-100, None)` for the last hundred), or a boolean for each row.

        Raises:
            ValueError: no layer matches.
            TypeError: an argument is none of these.
        """
        if layers is not None and not isinstance(layers, str) and not callable(layers):
            raise TypeError(f"layers must be a regular expression or a predicate on the name, got {layers!r}")
        if steps is not None and not isinstance(steps, (slice, np.ndarray)):
            raise TypeError(
                f"steps must be a slice of rows, such as slice(-100, None), or a boolean for each row, got {steps!r}"
            )
        rows = slice(None) if steps is None else steps
        try:
            keep = layers if callable(layers) else re.compile(layers or "").search
        except re.error as error:
            raise ValueError(f"layers={layers!r} is not a regular expression: {error}") from error
        columns = [i for i, name in enumerate(self.names) if keep(name)]
        if not columns:
            raise ValueError(f"no layer matches layers={layers!r}; the record has {listing(self.names)}")

        def cut(array: NDArray[Any]) -> Any:
            return array[rows][:, columns]

        return replace(
            self,
            names=tuple(self.names[i] for i in columns),
            numel=self.numel[columns],
            kinds=tuple(self.kinds[i] for i in columns),
            dtypes=tuple(self.dtypes[i] for i in columns if self.dtypes),
            steps=self.steps[rows],
            delta_l1=cut(self.delta_l1),
            prev_l1=cut(self.prev_l1),
            moved=cut(self.moved),
            **{name: cut(array) for name, array in self._extra().items()},
            flags=self.flags[rows],
            rates=None if self.rates is None else self.rates[rows].columns(columns),
            observed=self.observed.columns(columns),
        )

    def _extra(self) -> dict[str, Any]:
        """The sums that not every record has, by name."""
        arrays = {name: getattr(self, name) for name in ("ratio_sum", *L2)}
        return {name: array for name, array in arrays.items() if array is not None}

    def save(self, folder: str | Path) -> None:
        """Write a run folder that `load` reads.

        Raises:
            WeightScaleError: the folder exists, or cannot be written.
        """
        meta = {
            "names": list(self.names),
            "numel": [int(n) for n in self.numel],
            "kinds": list(self.kinds),
            "definition": self.definition,
            "l2": self.delta_l2 is not None,
            "every": self.every,
            "baseline": self.baseline,
            "settings": plain_settings(self.settings),
            "dtypes": list(self.dtypes),
        }
        try:
            run = RunFolder.create(folder, meta)
        except FolderTakenError as error:
            raise WeightScaleError(f"{error.reason}: choose another folder") from error
        try:
            if len(self):
                sums = self.delta_l1, self.prev_l1, self.moved, self.ratio_sum
                l2 = self.delta_l2, self.prev_l2, self.delta_max
                run.append(Rows(self.steps, *sums, self.flags, self.rates, *l2))
            if self.observed != Observed():
                self.observed.write(run.path)
        except OSError as error:
            raise WeightScaleError(f"run folder {folder} cannot be written: {error}") from error
        finally:
            run.release()

    @classmethod
    def load(cls, folder: str | Path) -> RWCHistory:
        """Read a run folder: every closed shard, even if the process that wrote it was killed.

        Raises:
            WeightScaleError: it is no run folder, or its meta.json or a shard is damaged or of another run.
        """
        run = RunFolder.open(folder)
        return cls.from_rows(run.meta, run.rows(), Observed.read(run.path, len(run.meta["names"])))

    @classmethod
    def from_rows(cls, meta: Mapping[str, Any], rows: Rows, observed: Observed | None = None) -> RWCHistory:
        """The history of a run's `meta` and rows, and what was observed in it."""
        return cls(
            names=tuple(meta["names"]),
            numel=np.asarray(meta["numel"], dtype=np.int64),
            kinds=tuple(meta["kinds"]),
            definition=meta["definition"],
            every=meta["every"],
            baseline=meta.get("baseline", "last_row"),  # older run folders have none
            settings=meta["settings"],
            dtypes=tuple(meta.get("dtypes", ())),  # older run folders have none
            observed=observed or Observed(),
            **{**rows._asdict(), "flags": rows.bits},
        )

    def to_npz(self, path: str | Path) -> None:
        """Write every array of the record, and `rwc`, to one compressed npz file."""
        arrays: dict[str, Any] = {
            "names": np.asarray(self.names),
            "numel": self.numel,
            "kinds": np.asarray(self.kinds),
            "steps": self.steps,
            "delta_l1": self.delta_l1,
            "prev_l1": self.prev_l1,
            "moved": self.moved,
            "rwc": self.rwc,
            "flags": self.flags,
        }
        arrays |= self._extra()
        if self.rates is not None:
            arrays |= {"lr": self.lr, "weight_decay": self.weight_decay}
        np.savez_compressed(path, **arrays)

    def to_csv(self, path: str | Path) -> None:
        """Write `rwc` as a table with one row for each step and one column for each layer."""
        rows = ([int(step), *map(repr, row.tolist())] for step, row in zip(self.steps, self.rwc, strict=True))
        write_csv(Path(path), ["step", *self.names], rows)

    def to_dataframe(self) -> DataFrame:
        """`rwc` as a pandas table, with one row for each step and one column for each layer. It needs pandas.

        Raises:
            WeightScaleError: pandas is not installed.
        """
        pd = import_extra("pandas")

        table: DataFrame = pd.DataFrame(self.rwc, index=pd.Index(self.steps, name="step"), columns=pd.Index(self.names))
        return table

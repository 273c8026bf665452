"""The one exception class that is the package's own; wrong arguments raise `ValueError` or `TypeError`."""


class WeightScaleError(RuntimeError):
    """Something outside the caller's arguments is not as it must be: a backend, a run folder, a changed model."""

"""The HTML page of a run, with its figures."""

from .write import write_report

__all__ = ["write_report"]

"""Write a table into docs/performance.md, between two marks."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def replace_between(begin: str, end: str, table: str, page: Path = PAGE) -> None:
    """Replace the text between the marks `begin` and `end` of the page.

    Raises:
        ValueError: the page does not have both marks.
    """
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} must have the lines {begin!r} and {end!r}: put them where the table belongs")
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}")

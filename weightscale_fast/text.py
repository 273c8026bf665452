"""Numbers and names as text."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMES = 5


def count(number: int, noun: str) -> str:
    """The number with its noun, in the singular or the plural.

    Example:
        >>> count(1, "layer"), count(1204, "layer")
        ('1 layer', '1,204 layers')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short_name(name: str, most: int = 30) -> str:
    """A layer's name for a label: without `.weight`, and at most `most` letters long. A long name is cut in its middle.

    Example:
        >>> short_name("blocks.5.7.se.conv_reduce.weight")
        'blocks.5.7.se.conv_reduce'
    """
    name = name.removesuffix(".weight")
    if len(name) <= most:
        return name
    return f"{name[: most // 2 - 1].rstrip('.')}…{name[-(most // 2) :].lstrip('.')}"


def printable(text: str) -> str:
    """The text with control characters, line ends and changes of direction made visible.

    Example:
        >>> printable("conv\\x1b[2J")
        'conv\\\\x1b[2J'
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def listing(names: Sequence[str]) -> str:
    """The first five names, and how many more there are.

    Example:
        >>> listing(["conv", "fc"])
        'conv, fc'
        >>> listing(list("abcdefg"))
        'a, b, c, d, e and 2 more'
    """
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")

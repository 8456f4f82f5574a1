"""A name that is not known: one message, with the closest that is."""

import difflib
from collections.abc import Iterable

LISTED = 30  # more names than this do not fit a line; their number is given instead


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among the known ones.

    Args:
        kind: What the name names, for example ``"model"``.
        name: The name that was asked for.
        known: The names there are.

    Examples:
        >>> unknown_name("model", "resnet81", ["fcn", "resnet8"])
        ValueError("unknown model 'resnet81': did you mean 'resnet8'? known are fcn, resnet8")
        >>> unknown_name("mode", "keep", ["relu", "relu, int8"])
        ValueError("unknown mode 'keep': known are 'relu', 'relu, int8'")
    """
    by_folded = {candidate.casefold(): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    hint = f"did you mean {by_folded[close[0]]!r}? " if close else ""
    names = list(by_folded.values())
    if any("," in name for name in names):
        names = [repr(name) for name in names]
    listing = f"known are {', '.join(names)}" if len(names) <= LISTED else f"{len(names)} are known"
    return ValueError(f"unknown {kind} {name!r}: {hint}{listing}")

"""The options of studies: what there are, as help prints them, and how lists are read."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any


def describe_options(run: Callable[..., Any]) -> str:
    """A study's own options, with their defaults and the meanings that its docstring gives them.

    Args:
        run: The study's function: `out` and `progress`, then its options.

    Examples:
        >>> def run(out, *, progress, keeps="0.1", seeds=1, quick=False):
        ...     '''Train.
        ...
        ...     Args:
        ...         out: Folder.
        ...         progress: Show it.
        ...         keeps: Fractions kept,
        ...             between commas.
        ...         seeds: Trainings of each.
        ...         quick: A trial.
        ...     '''
        >>> print(describe_options(run))
          --keeps  Fractions kept, between commas. [default: 0.1]
          --seeds  Trainings of each. [default: 1]
          --quick  A trial.
    """
    meanings = _meanings(inspect.getdoc(run) or "")
    options = list(inspect.signature(run).parameters.values())[2:]
    width = max(len(option.name) for option in options) + 6
    lines = []
    for option in options:
        shown = option.default is not None and option.default is not False
        default = f" [default: {option.default}]" if shown else ""
        name = f"  --{option.name.replace('_', '-')}"
        text = f"{name:<{width}}{meanings.get(option.name, '')}{default}"
        lines.append(textwrap.fill(text, 100, subsequent_indent=" " * width))
    return "\n".join(lines)


def numbers(option: str, value: object) -> list[float]:
    """The numbers of an option that takes several.

    Args:
        option: Its name.
        value: Numbers with commas between.

    Raises:
        ValueError: One of them is no number.

    Examples:
        >>> numbers("keeps", "0.1,0.02")
        [0.1, 0.02]
        >>> numbers("keeps", "a,b")
        Traceback (most recent call last):
        ValueError: keeps is 'a,b'; allowed are numbers with commas between, such as 0.1,0.02
    """
    try:
        return [float(number) for number in str(value).split(",")]
    except ValueError:
        raise ValueError(
            f"{option} is {value!r}; allowed are numbers with commas between, such as 0.1,0.02"
        ) from None


def _meanings(docstring: str) -> dict[str, str]:
    """The entries under "Args:"."""
    section = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(section).splitlines():
        if not line.startswith(" "):
            name, _, line = line.partition(":")
            found[name] = ""
        found[name] = f"{found[name]} {line.strip()}".strip().replace("`", "")
    return found

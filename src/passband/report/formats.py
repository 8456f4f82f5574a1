"""Figures as bytes of files, the same bytes for the same figure: no date, no random names."""

import io
from typing import TYPE_CHECKING

from passband.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg(figure: "Figure") -> bytes:
    """The figure as SVG.

    Examples:
        >>> from passband.report.figures import new_figure
        >>> figure = new_figure(2, 1)
        >>> svg(figure) == svg(figure)
        True
    """
    matplotlib = require("matplotlib", extra="report")
    target = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "passband", "svg.fonttype": "path"}):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return target.getvalue()


def png(figure: "Figure") -> bytes:
    """The figure as PNG."""
    target = io.BytesIO()
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()

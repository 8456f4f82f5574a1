"""The commands of the command line.

Whatever needs an extra but the command line's own, or much time to import, is imported within the
command that needs it, so that help comes at once.
"""

from passband.commands import training, tools, bench, tune  # noqa: I001  # in the order of the help
from passband.commands.app import Abort, UsageError, run_app

__all__ = ["Abort", "UsageError", "bench", "run_app", "tools", "training", "tune"]

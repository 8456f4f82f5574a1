"""The `passband` command: what it prints when something is wrong, and its exit codes.

The commands themselves are in `passband.commands`; this module needs none of the extras.
"""

import sys
import traceback
from collections.abc import Sequence

USAGE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What stands after `passband`; None takes it from the process.

    Returns:
        The exit code: 0 when all went well, 2 after one line on what was wrong, 130 after an
        interrupt.
    """
    try:
        from passband import commands
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        return _complain(f"the command line needs {missing}: pip install 'passband[cli]'")
    try:
        return commands.run_app(arguments)
    except commands.UsageError as error:
        return _complain(error.format_message())
    except (KeyboardInterrupt, commands.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ImportError, OSError) as error:
        return _complain(str(error))
    except (ValueError, TypeError) as error:
        if not _is_ours(error):
            raise
        return _complain(str(error))


def _complain(message: str) -> int:
    """Say in one line what is wrong."""
    print(f"passband: {' '.join(message.split())}", file=sys.stderr)
    return USAGE


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised the error: then its message is meant for the user.

    Any other is a defect, and its traceback helps to find it.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in: str = frames[-1].f_globals.get("__name__", "") if frames else ""
    return raised_in.partition(".")[0] == "passband"


if __name__ == "__main__":
    sys.exit(main())

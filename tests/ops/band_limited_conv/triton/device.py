"""Where the Triton kernels are tested, and how exact they can be there."""

import torch

from tests.support import TOLERANCE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tolerance(dtype: torch.dtype) -> float:
    """That of any algorithm, but twice as much in bfloat16 in the interpreter.

    It cuts bits off where hardware rounds to the nearest number, an error of up to one unit in the
    last place instead of half of one.
    """
    return TOLERANCE[dtype] * (2 if DEVICE == "cpu" and dtype == torch.bfloat16 else 1)

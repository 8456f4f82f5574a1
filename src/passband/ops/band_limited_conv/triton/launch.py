"""How the Triton kernels are run: block shapes, number formats, the device."""

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
"""Whether kernels run in Triton's interpreter, which is settled when they are defined."""


def launch(kernel: Any, grid: Any, result: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel that writes `result`, its first argument, on that tensor's device.

    Multiplications and additions are fused, which Triton is about to stop doing by default.
    """
    if result.numel():
        with torch.cuda.device_of(result):  # type: ignore[no-untyped-call]
            kernel[grid](result, *arguments, **constants, enable_fp_fusion=True)


def blocks(warps: int, stages: int, **sizes: int) -> triton.Config:
    """One candidate: sizes of blocks, warps of a program, stages of the loads' pipeline."""
    return triton.Config(sizes, num_warps=warps, num_stages=stages)


def tuned(key: list[str], *candidates: triton.Config) -> Callable[[Any], Any]:
    """Have a kernel timed with every candidate, once for each value of the arguments in `key`.

    The last candidate has the smallest blocks. It alone is taken in the interpreter, and where
    products do not run on tensor cores: the others would need more registers than there are.
    torch.use_deterministic_algorithms has none timed, since the order of a sum depends on blocks.
    """
    if INTERPRETED:
        candidates = candidates[-1:]
    decorator: Callable[[Any], Any] = triton.autotune(
        list(candidates),
        key=[*key, "PRECISION"],
        prune_configs_by={"early_config_prune": _worth_timing},
    )
    return decorator


def _worth_timing(
    candidates: list[triton.Config], arguments: dict[str, Any], **constants: Any
) -> list[triton.Config]:
    if {**arguments, **constants}["PRECISION"] == "ieee":
        return candidates[-1:]
    return candidates[:1] if torch.are_deterministic_algorithms_enabled() else candidates


def precision(*dtypes: torch.dtype) -> str:
    """How float32 numbers are multiplied, on the way from one type to another.

    Short types always take TF32: it holds their significands whole (10 bits, bfloat16 has 7) and
    float32's exponents. float32 takes it where torch's own matrix products may.
    """
    if torch.version.hip or torch.float64 in dtypes:  # AMD's matrix units have no TF32 in Triton
        return "ieee"
    if torch.float16 in dtypes or torch.bfloat16 in dtypes:
        return "tf32"
    return "tf32" if _tf32_is_allowed() else "ieee"


def _tf32_is_allowed() -> bool:
    products = torch.backends.cuda.matmul
    if hasattr(products, "fp32_precision"):  # torch >= 2.9, whose older switch may raise
        return bool(products.fp32_precision == "tf32")
    return bool(products.allow_tf32)

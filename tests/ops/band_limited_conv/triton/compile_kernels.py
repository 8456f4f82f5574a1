"""Compile every kernel for a GPU, which needs none: python compile_kernels.py ARCHITECTURE [TYPES].

One line for each: its name, the types it was compiled for, and bytes of shared memory.
"""

import sys
from typing import Any

# Arguments that are pointers to numbers of the maps' type, and to those of the computation's.
MAPS = ("maps", "spectrum", "grad", "product", "taps", "bias", "out")
REAL = ("rows", "columns", "matrix", "phases", "partial")
TYPES = {
    # the maps' type: the computation's, that of products, how they are made
    "bf16": ("fp32", "bfloat16", "tf32"),
    "fp16": ("fp32", "float16", "tf32"),
    "fp32": ("fp32", "float32", "tf32"),
    "fp32 ieee": ("fp32", "float32", "ieee"),
    "fp64": ("fp64", "float64", "ieee"),
}
# Triton compiles a number that is 1 as a constant, so that other code is generated.
SINGLE = ("batch", "groups", "tap_count", "cosines_u", "cosines_v", "kept_u", "kept_v")
KERNELS = (
    ("analyze", {}, ("map_c", "row_u", "column_v")),
    ("analyze", {}, ("map_w", "row_u", "column_v")),
    ("synthesize", {"HAS_BIAS": True}, ("map_c", "row_u", "column_v")),
    ("synthesize", {"HAS_BIAS": False}, ("map_w", "row_u", "column_v")),
    ("apply_matrix", {"HAS_BIAS": True}, ("out_i", "map_c", "matrix_j")),
    ("multiply", {"MIRRORED": True, "ADJOINT": False}, ("groups",)),
    ("multiply", {"MIRRORED": False, "ADJOINT": True}, (*SINGLE, "summed")),
    ("filter_gradient", {"MIRRORED": True}, ("groups",)),
    ("filter_gradient", {"MIRRORED": False}, (*SINGLE, "parts")),
)


def compile_kernel(
    name: str, types: str, constants: dict[str, Any], ones: tuple[str, ...], architecture: int
) -> int:
    """Compile the first candidate that would be tried; returns bytes of shared memory."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from passband.ops.band_limited_conv.triton import product_kernels, transform_kernels

    kernel = getattr(product_kernels, f"{name}_kernel", None)
    kernel = kernel or getattr(transform_kernels, f"{name}_kernel")
    real, dtype, precision = TYPES[types]
    candidate = kernel.configs[-1 if precision == "ieee" else 0]
    known = {"PRECISION": precision, "DTYPE": getattr(tl, dtype), **constants, **candidate.kwargs}
    known |= dict.fromkeys(ones, 1)
    known = {a: value for a, value in known.items() if a in kernel.fn.arg_names}
    kinds = dict.fromkeys(MAPS, f"*{types.partition(' ')[0]}") | dict.fromkeys(REAL, f"*{real}")
    if name == "apply_matrix":
        kinds["rows"] = "i32"  # their number
    signature = {a: "constexpr" if a in known else kinds.get(a, "i32") for a in kernel.fn.arg_names}
    compiled = triton.compile(
        ASTSource(kernel.fn, signature, known),
        target=GPUTarget("cuda", architecture, 32),
        options={
            "num_warps": candidate.num_warps,
            "num_stages": candidate.num_stages,
            "enable_fp_fusion": True,
        },
    )
    return int(compiled.metadata.shared)


def main() -> None:
    """Compile all of them."""
    architecture, *chosen = sys.argv[1:]
    for name, constants, ones in KERNELS:
        for types in chosen or TYPES:
            shared = compile_kernel(name, types, constants, ones, int(architecture))
            print(f"{name},{types},{shared}", flush=True)


if __name__ == "__main__":
    main()

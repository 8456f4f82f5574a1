"""Models as ONNX files, of plain matrix products and convolutions."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from passband.atomic import atomic_path
from passband.extras import require
from passband.measure.layers import ExampleInput, call_model, undisturbed
from passband.measure.macs import BandLimitedConv

# Largest relative norm of the difference between ONNX Runtime's output and torch's. Rounding of one
# layer (6e-8 in float32) grows with depth and with batch norms that scale up small maps, to about
# 1e-6 for a hundred layers; a wrong graph is off by far more than a hundred times that.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 5e-2}


def export_onnx(
    model: nn.Module,
    example_input: ExampleInput,
    path: str | Path,
    dynamic_batch: bool = True,
    check: bool = True,
) -> None:
    """Write a model to an ONNX file, for evaluation.

    Band-limited layers become matrix products and convolutions, whatever their algorithm: there is
    no DFT, no complex number and no custom operator in the graph. The model is exported in
    evaluation mode and left as it was.

    Args:
        model: The model.
        example_input: What it is called with: a tensor, positional or keyword arguments.
        path: File to write, whole or not at all; its folder must exist.
        dynamic_batch: The first axis of every input tensor may have any size; otherwise all sizes
            are those of the example.
        check: Run the file in ONNX Runtime and compare, at the example's batch and, with
            `dynamic_batch`, at another one.

    Raises:
        ValueError: A layer's band follows the energy of each batch, which no fixed graph can; or
            the file is to be checked, and bfloat16 is in it, which NumPy does not have.
        RuntimeError: ONNX Runtime computes something else; no file is written.
        ImportError: onnx, onnxscript or onnxruntime is missing; the message names the extra.

    Examples:
        >>> import tempfile
        >>> import passband as pb
        >>> model = nn.Sequential(pb.BandLimitedConv2d(3, 4, 3, compression=0.5), nn.ReLU())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_onnx(model, torch.randn(2, 3, 9, 9), f"{folder}/net.onnx")
        ...     Path(folder, "net.onnx").exists()
        True
    """
    for name in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
        require(name, extra="export")
    _check_bands(model)
    if check and any(t.dtype is torch.bfloat16 for t in model.state_dict().values()):
        raise ValueError("model is in torch.bfloat16, which cannot be checked; use check=False")
    example = _at_least_two(example_input) if dynamic_batch else example_input
    with undisturbed(model), torch.no_grad(), _without_fft(model):
        program = _export(model, example, dynamic_batch)
        with atomic_path(path) as temporary:
            program.save(temporary, external_data=False)
            if check:
                _check(temporary, model, example)
                if dynamic_batch:
                    _check(temporary, model, _first(example))


def _check_bands(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, BandLimitedConv) and layer.energy is not None:
            raise ValueError(
                f"layer {name or '(model)'} has energy={layer.energy}: its band follows each "
                "batch, which a fixed graph cannot; use passband.calibrate(model, batches) before"
            )


@contextmanager
def _without_fft(model: nn.Module) -> Iterator[None]:
    """The reference algorithm replaced by one of the others, which compute the same function."""
    layers = [m for m in model.modules() if isinstance(m, BandLimitedConv) and m.algorithm == "fft"]
    for layer in layers:
        layer.algorithm = "auto"
    try:
        yield
    finally:
        for layer in layers:
            layer.algorithm = "fft"


def _export(model: nn.Module, example: ExampleInput, dynamic_batch: bool) -> Any:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None
    shapes: Any
    batch = torch.export.Dim("batch")
    if isinstance(example, Mapping):
        kwargs = dict(example)
        shapes = {name: _shape(value, batch) for name, value in example.items()}
    else:
        args = (example,) if isinstance(example, Tensor) else tuple(example)
        shapes = tuple(_shape(value, batch) for value in args)
    with warnings.catch_warnings():
        # that the inputs have one batch in common is meant
        warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)
        return torch.onnx.export(
            model,
            args,
            kwargs=kwargs,
            dynamo=True,
            dynamic_shapes=shapes if dynamic_batch else None,
            verbose=False,
        )


def _shape(value: Any, batch: Any) -> dict[int, Any] | None:
    return {0: batch} if isinstance(value, Tensor) and value.dim() else None


def _at_least_two(example: ExampleInput) -> ExampleInput:
    """A batch of one doubled: torch.export takes a size of one for a constant."""
    return _map_tensors(example, lambda x: torch.cat([x, x]) if len(x) == 1 else x)


def _first(example: ExampleInput) -> ExampleInput:
    return _map_tensors(example, lambda x: x[:1])


def _map_tensors(example: ExampleInput, function: Callable[[Tensor], Tensor]) -> ExampleInput:
    """The example with every tensor that has a batch replaced."""

    def replace(value: Any) -> Any:
        return function(value) if isinstance(value, Tensor) and value.dim() else value

    if isinstance(example, Mapping):
        return {name: replace(value) for name, value in example.items()}
    if isinstance(example, Tensor):
        return function(example)
    return tuple(replace(value) for value in example)


def _check(path: Path, model: nn.Module, example: ExampleInput) -> None:
    """Run the file and compare with the model."""
    runtime = require("onnxruntime", extra="export")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feeds = dict(zip(names, map(_array, tree_leaves(example)), strict=True))
    found = session.run(None, feeds)
    expected = [leaf for leaf in tree_leaves(call_model(model, example)) if torch.is_tensor(leaf)]
    for output, wanted in zip(found, expected, strict=True):
        error, tolerance = _relative_error(torch.as_tensor(output), wanted), _tolerance(wanted)
        if not error <= tolerance:
            raise RuntimeError(
                f"ONNX Runtime's output differs from the model's by {error:.1e} of its norm, "
                f"allowed is {tolerance:.0e}; no file was written"
            )


def _array(value: Any) -> Any:
    return torch.as_tensor(value).detach().cpu().numpy()


def _tolerance(output: Tensor) -> float:
    return _TOLERANCE[output.dtype] if output.is_floating_point() else 0.0


def _relative_error(found: Tensor, expected: Tensor) -> float:
    difference = float((found.double() - expected.cpu().double()).norm())
    size = float(expected.double().norm())
    return difference / size if size else difference

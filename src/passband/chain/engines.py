"""What runs a network on the CPU: each engine makes a function of a model and its maps."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from passband.chain.compiled import compile_chain
from passband.export import export_onnx
from passband.extras import require

Run = Callable[[], Tensor]


def eager(model: nn.Module, maps: Tensor) -> Run:
    """PyTorch as it is."""

    def run() -> Tensor:
        with torch.inference_mode():
            output: Tensor = model(maps)
        return output

    return run


def onnx_runtime(model: nn.Module, maps: Tensor, file: str | Path | None = None) -> Run:
    """ONNX Runtime on as many threads as torch; `file` is written before if it is not given.

    Raises:
        ValueError: ONNX Runtime cannot read the file, or it is for maps of another size.
    """
    runtime = require("onnxruntime", extra="export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if file is None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            export_onnx(model, maps, file, check=False)
            content = file.read_bytes()
    else:
        content = Path(file).read_bytes()
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes that have nothing else in common
        raise ValueError(
            f"ONNX Runtime cannot read {file}; allowed is what passband export writes: {error}"
        ) from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].shape[1:] != list(maps.shape[1:]):
        raise ValueError(
            f"{file} is for inputs of shape {' and '.join(str(each.shape) for each in inputs)}; "
            f"allowed is one of (batch, {', '.join(map(str, maps.shape[1:]))})"
        )
    feed = {inputs[0].name: maps.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def native(model: nn.Module, maps: Tensor) -> Run:
    """This package's engine for chains.

    Raises:
        RuntimeError: It cannot run the model; the message says why.
    """
    graph = model if isinstance(model, fx.GraphModule) else fx.symbolic_trace(model)
    chain = compile_chain(graph, maps)
    if chain.reason is not None:
        raise RuntimeError(chain.reason)
    return lambda: chain(maps)

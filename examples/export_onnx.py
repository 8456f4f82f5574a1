"""Export a band-limited network to ONNX and run it in ONNX Runtime.

Usage: python examples/export_onnx.py
"""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import torch

import passband as pb
from passband.networks import create_model


def main() -> None:
    """Export, list the operators of the graph, compare the outputs."""
    torch.manual_seed(0)
    model = create_model("resnet8", num_classes=10, in_channels=3, input_size=(32, 32)).eval()
    images = torch.randn(4, 3, 32, 32)
    pb.convert(model, pb.BandLimit(compression=0.5), images)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "resnet8.onnx")
        pb.export_onnx(model, images, path)
        operators = Counter(node.op_type for node in onnx.load(path).graph.node)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})

    print("operators:", ", ".join(f"{count} {name}" for name, count in operators.most_common()))
    with torch.no_grad():
        expected = model(images)
    error = (torch.from_numpy(found) - expected).norm() / expected.norm()
    print(f"difference from PyTorch: {error:.1e}")


if __name__ == "__main__":
    main()

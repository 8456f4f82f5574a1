"""Exercise the core of an installed passband, where nothing but torch and numpy is there.

`.ci/run` runs this from the built wheel with the oldest torch that it supports.
"""

import shutil
import sys
import tempfile
import warnings
from importlib.metadata import distribution, distributions
from itertools import product
from pathlib import Path

import numpy
import torch

import passband as pb
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.native import convolution as native
from passband.ops.band_limited_conv.native.library import load_library


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def make_model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    )


def check_installation() -> None:
    """The package is the wheel's, and no extra is installed."""
    assert "site-packages" in str(Path(pb.__file__)), pb.__file__
    assert (Path(pb.__file__).parent / "py.typed").exists()
    installed = {d.metadata["Name"].lower() for d in distributions()}
    assert not installed & {"typer", "lightning", "torchvision", "matplotlib", "onnx", "pytest"}


def check_kernels() -> None:
    """The wheel has kernels if there was a C compiler; they load, compute, and agree with torch."""
    built = distribution("passband")
    compiled = [str(path) for path in built.files or [] if path.suffix == ".so"]
    assert ("Root-Is-Purelib: false" in (built.read_text("WHEEL") or "")) == bool(compiled)
    if not compiled:
        assert not any(map(shutil.which, ("cc", "gcc"))), "there is a C compiler, but no kernels"
        print("no C compiler: the wheel has no kernels")
        return
    library = load_library()
    assert library is not None, compiled
    geometry = conv_geometry((19, 17), (3, 3), padding=1, compression=0.5)
    x, w = torch.randn(5, 17, 19, 17), torch.randn(65, 17, 3, 3)
    assert native.applies(geometry, torch.float32, x, w)
    found, _ = native.forward(x, w, None, geometry, torch.float32, False, False)
    expected = pb.band_limited_conv2d(x, w, padding=1, compression=0.5, algorithm="fft")
    # 1e-5: float32 rounding over sums of a few thousand terms
    assert relative_error(found, expected) < 1e-5
    print(f"kernels: {Path(library._name).name} of {len(compiled)}")


def check_training() -> None:
    """Convert, train one step, save and load the weights, revert."""
    images, labels = torch.randn(5, 4, 19, 17), torch.tensor([0, 1, 2, 0, 1])
    model = make_model()
    print(pb.convert(model, pb.BandLimit(compression=0.5), images))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = torch.nn.functional.cross_entropy(model(images), labels)
    before.backward()
    optimizer.step()
    after = torch.nn.functional.cross_entropy(model(images), labels)
    assert after < before

    # The state_dict fits the plain network.
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder, "weights.pt"))
        plain = make_model()
        plain.load_state_dict(torch.load(Path(folder, "weights.pt"), weights_only=True))
        try:
            pb.save(model, Path(folder, "model.safetensors"))
        except ImportError as error:  # safetensors is an extra: the message says which
            assert "passband[files]" in str(error), error
        else:
            raise AssertionError("save worked without safetensors: is an extra installed here?")

    # At full band both networks are one function; 1e-5 is float32 rounding over two layers.
    pb.set_compression(model, 0.0)
    assert relative_error(model(images), plain(images)) < 1e-5
    pb.revert(model)
    assert not any(isinstance(m, pb.BandLimitedConv2d) for m in model.modules())
    assert torch.equal(model(images), plain(images))


def check_operation(algorithm: str, compression: float | None, compiled: bool) -> None:
    """Output and every gradient: at full band equal to torch's, else to the reference's."""
    inputs = {
        "input": torch.randn(2, 4, 15, 13, dtype=torch.float64),
        "weight": torch.randn(6, 4, 3, 3, dtype=torch.float64),
        "bias": torch.randn(6, dtype=torch.float64),
    }

    def ours(**tensors: torch.Tensor) -> torch.Tensor:
        return pb.band_limited_conv2d(
            **tensors, padding=1, compression=compression, algorithm=algorithm
        )

    def expected(**tensors: torch.Tensor) -> torch.Tensor:
        if compression is None:
            return torch.nn.functional.conv2d(**tensors, padding=1)
        return pb.band_limited_conv2d(
            **tensors, padding=1, compression=compression, algorithm="fft"
        )

    results = []
    for function in (torch.compile(ours, fullgraph=True) if compiled else ours, expected):
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        output = function(**leaves)
        output.square().sum().backward()
        results.append({"output": output.detach()} | {n: leaf.grad for n, leaf in leaves.items()})
    for name, found in results[0].items():
        # 1e-12: float64 rounding over sums of a few thousand terms.
        case = (algorithm, compression, compiled, name)
        assert relative_error(found, results[1][name]) < 1e-12, case


def main() -> None:
    check_installation()
    check_kernels()
    check_training()
    for algorithm, compression in product(("auto", "lowpass", "matmul"), (None, 0.5)):
        check_operation(algorithm, compression, compiled=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own, of torch and of what it imports
            check_operation(algorithm, compression, compiled=True)
    python = ".".join(map(str, sys.version_info[:3]))
    print(
        f"passband {pb.__version__}: torch {torch.__version__}, numpy {numpy.__version__}, "
        f"Python {python}: the core works without extras"
    )


if __name__ == "__main__":
    main()

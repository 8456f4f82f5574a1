"""The rules of the house: layers, extras, imports without side effects, the public names."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import passband

PACKAGE = Path(passband.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[1]

# From the bottom up. A part imports from its own level and from those before it.
LEVELS = (
    ("atomic", "extras", "imported", "names", "spectrum", "tensor_file"),
    ("config",),
    ("ops",),
    ("allocator", "functional"),
    ("nn",),
    ("measure",),
    ("convert", "files", "export", "chain", "networks", "data", "train"),
    ("studies", "report"),
    ("bench",),
    ("commands",),
    ("cli",),
)
RANK = {part: rank for rank, level in enumerate(LEVELS) for part in level}
CORE = (
    "allocator",
    "atomic",
    "imported",
    "names",
    "tensor_file",
    "chain",
    "config",
    "convert",
    "export",
    "extras",
    "files",
    "functional",
    "measure",
    "nn",
)
CORE += ("names", "ops", "spectrum", "tensor_file")

CONTRACT = {
    *("BandLimitedConv1d", "BandLimitedConv2d", "BandLimitedConv3d"),
    *("band_limited_conv1d", "band_limited_conv2d", "band_limited_conv3d"),
    *("BandLimit", "SpecNet", "convert", "revert", "set_compression", "calibrate"),
    *("profile", "export_onnx", "save", "load"),
    *("FrequencyConv1d", "FrequencyConv2d", "FrequencyConvTranspose2d", "FrequencyLinear"),
    *("FrequencyBatchNorm", "FrequencyRegularization", "FrequencyScheduler", "to_chain"),
    *("keep_freed_memory", "return_freed_memory"),  # added to it
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """`passband.ops.band_limited_conv.op` -> `ops`."""
    return module.split(".")[1]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports, at its top or inside a function."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            if base == "passband":
                found |= {f"passband.{alias.name}" for alias in node.names}
            else:
                found.add(base)
    found.discard("passband.__version__")
    return {name for name in found if name.split(".")[0] == "passband"}


def import_arrows() -> list[tuple[str, str]]:
    """(importing module, imported module) for the whole package but its `__init__`."""
    return [
        (module_name(path), target)
        for path in sources()
        if path != PACKAGE / "__init__.py"
        for target in imported_modules(path)
    ]


def test_every_part_has_a_level() -> None:
    parts = {
        path.stem if path.parent == PACKAGE else part_of(module_name(path)) for path in sources()
    } - {"__init__"}
    assert parts <= RANK.keys()


def test_arrows_point_downward() -> None:
    upward = [
        f"{source} imports {target}"
        for source, target in import_arrows()
        if target == "passband" or RANK[part_of(target)] > RANK[part_of(source)]
    ]
    assert not upward


def test_parts_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for source, target in import_arrows():
        if part_of(source) != part_of(target):
            graph.setdefault(part_of(source), set()).add(part_of(target))
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_public_names_are_the_contract() -> None:
    assert set(passband.__all__) == CONTRACT
    submodules = {path.stem for path in PACKAGE.iterdir()}
    public = {name for name in vars(passband) if not name.startswith("_")}
    assert public - submodules == CONTRACT - submodules


def test_public_names_have_a_docstring_with_an_example() -> None:
    without = [name for name in CONTRACT if ">>> " not in (getattr(passband, name).__doc__ or "")]
    assert not without


def test_examples_are_headed_as_the_documentation_reads_them() -> None:
    """Under "Example:" it would set the code as text."""
    wrong = [path.name for path in sources() if re.search(r"^\s*Example:$", path.read_text(), re.M)]
    assert not wrong


def top_level_modules_of(*distributions: str) -> set[str]:
    """What installing these distributions, with what they require, makes importable."""
    wanted, queue = set(), list(distributions)
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in wanted:
            continue
        wanted.add(name)
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # required on another platform
        queue += [re.split(r"[^\w.-]", r)[0] for r in requirements if "extra ==" not in r]
    return {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if any(re.sub(r"[-_.]+", "-", owner).lower() in wanted for owner in owners)
    }


def run_python(script: str, folder: Path) -> str:
    """Run a script in a fresh interpreter in an empty folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=folder, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def core_modules() -> list[str]:
    """All of the core's modules; kernels only where Triton is, which torch brings on Linux."""
    core = [m for m in map(module_name, sources()) if m != "passband" and part_of(m) in CORE]
    if importlib.util.find_spec("triton") is None:
        core = [m for m in core if ".triton." not in m]
    return core


CORE_ALONE = """
import sys
from importlib.machinery import PathFinder

allowed = set({allowed!r}) | set(sys.stdlib_module_names) | {{"passband"}}
missed = []

class CoreOnly(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        root = name.partition(".")[0]
        if root in allowed or root.startswith("_sysconfigdata"):  # of the standard library
            return super().find_spec(name, path, target)
        missed.append(name)

sys.meta_path[sys.meta_path.index(PathFinder)] = CoreOnly
import importlib
import numpy, torch
missed.clear()
for module in {modules!r}:
    importlib.import_module(module)
assert not missed, f"the core asked for {{missed}}"

import passband as pb
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3))
pb.convert(model, pb.BandLimit(compression=0.5), torch.randn(2, 3, 9, 9))
model(torch.randn(2, 3, 9, 9)).sum().backward()
pb.revert(model)
"""


def test_the_core_needs_torch_and_numpy_only(tmp_path: Path) -> None:
    allowed = sorted(top_level_modules_of("torch", "numpy"))
    run_python(CORE_ALONE.format(allowed=allowed, modules=["passband", *core_modules()]), tmp_path)


NO_SIDE_EFFECTS = """
import importlib, logging, os, random, signal, warnings
import numpy, torch

def state():
    return {{
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": numpy.random.get_state()[1].tolist(),
        "random generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "warning filters": list(warnings.filters),
        "environment": dict(os.environ),
        "log handlers": list(logging.getLogger().handlers),
        "interrupt handler": signal.getsignal(signal.SIGINT),
        "files": os.listdir(),
    }}

before = state()
for module in {modules!r}:
    importlib.import_module(module)
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed
"""


def test_importing_the_core_changes_nothing(tmp_path: Path) -> None:
    modules = ["passband", *core_modules()]
    assert run_python(NO_SIDE_EFFECTS.format(modules=modules), tmp_path) == ""


def test_the_command_starts_without_the_heavy_extras(tmp_path: Path) -> None:
    """They are imported where they are used, so that `passband --help` answers at once."""
    printed = run_python("import sys, passband.cli; print(*sys.modules)", tmp_path)
    loaded = {module.partition(".")[0] for module in printed.split()}
    heavy = {"aeon", "lightning", "matplotlib", "onnx", "onnxruntime", "sklearn", "timm"}
    assert "passband" in loaded
    assert not heavy & loaded


def test_extras_are_named_as_packaged() -> None:
    """Every `require(..., extra=...)` names an extra that this package has."""
    extras = set(importlib.metadata.metadata("passband").get_all("Provides-Extra"))
    named = {
        keyword.value.value
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Constant)
    }
    assert named
    assert named <= extras


def test_one_version() -> None:
    """The package, the citation and the change log speak of the same version."""
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {passband.__version__}\n" in citation
    assert f"\n## {passband.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()

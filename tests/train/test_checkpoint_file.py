import json
import math
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from passband.train.checkpoint_file import (
    DamagedCheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from tests.train.killed import assert_same


def round_trip(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    write_checkpoint(folder / "a.safetensors", content)
    return read_checkpoint(folder / "a.safetensors")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        2**70,
        -0.0,
        1e-300,
        0.1,
        math.inf,
        -math.inf,
        "",
        "ü\n\ud800",
        [],
        (),
        {},
        [1, (2, [3.0, None])],
        {"tensor": "not a tag"},
        {0: "int", "0": "str", 1.5: "float", (1, "a"): "tuple", None: "none"},
    ],
)
def test_values_come_back_as_they_were(value: Any, tmp_path: Path) -> None:
    assert_same(round_trip(tmp_path, {"value": value})["value"], value)


def test_a_negative_zero_and_nan_come_back(tmp_path: Path) -> None:
    found = round_trip(tmp_path, {"zero": -0.0, "nan": math.nan})
    assert math.copysign(1, found["zero"]) == -1
    assert math.isnan(found["nan"])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3),
        torch.randn(3, 5).t(),
        torch.randn(4, 3, 5, 7).to(memory_format=torch.channels_last),
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.tensor([True, False]),
        torch.tensor([1.5, math.nan, math.inf], dtype=torch.bfloat16),
        torch.tensor([1.5], dtype=torch.float16),
        torch.tensor([1e-300], dtype=torch.float64),
        torch.get_rng_state(),
    ],
)
def test_tensors_come_back_bit_for_bit(tensor: torch.Tensor, tmp_path: Path) -> None:
    found = round_trip(tmp_path, {"value": [tensor]})["value"][0]
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    as_bytes = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found, tensor))
    assert torch.equal(*as_bytes)


def test_tensors_that_share_memory_are_stored_one_by_one(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(4))
    found = round_trip(tmp_path, OrderedDict({"a": weight, "b": weight, "part": weight[1:3]}))
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight)
    assert torch.equal(found["part"], weight[1:3])
    found["a"].zero_()
    assert torch.equal(found["b"], weight)


def test_an_optimizer_comes_back(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(4))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert_same(round_trip(tmp_path, state), state)


def test_any_reader_of_safetensors_can_look_at_the_tensors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.safetensors", {"state": {"conv.weight": torch.ones(2)}, "n": 1})
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["state/conv.weight"], torch.ones(2))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({1}, "builtins.set"),
        (np.float64(1), "numpy.float64"),
        (np.zeros(2), "numpy.ndarray"),
        (torch.Size([1]), "torch.Size"),
        (torch.float32, "torch.dtype"),
        (object(), "builtins.object"),
    ],
)
def test_other_values_are_refused_by_place_and_type(value: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"checkpoint entry /callbacks/1 is {name}; allowed are"):
        write_checkpoint(tmp_path / "a.safetensors", {"callbacks": [0, value]})
    assert list(tmp_path.iterdir()) == []


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="entry /a is a sparse or quantized tensor"):
        write_checkpoint(tmp_path / "a.safetensors", {"a": torch.eye(3).to_sparse()})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"n": 1})
    with pytest.raises(TypeError):
        write_checkpoint(path, {"n": object()}, tmp_path / "b.safetensors")
    assert read_checkpoint(path) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_is_verified_before_it_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, save = tmp_path / "a.safetensors", safetensors.torch.save_file

    def save_badly(tensors: Any, file: Path, metadata: Any) -> None:
        save(tensors, file, metadata=metadata)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    write_checkpoint(path, {"x": torch.ones(1)})
    monkeypatch.setattr(safetensors.torch, "save_file", save_badly)
    with pytest.raises(DamagedCheckpointError, match="digest"):
        write_checkpoint(path, {"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    assert torch.equal(read_checkpoint(path)["x"], torch.ones(1))
    assert list(tmp_path.iterdir()) == [path]


def test_the_previous_file_is_kept(tmp_path: Path) -> None:
    path, previous = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for n in range(3):
        write_checkpoint(path, {"n": n}, previous)
    assert (read_checkpoint(path), read_checkpoint(previous)) == ({"n": 2}, {"n": 1})


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"x": torch.randn(3), "n": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError, match="damaged"):
            read_checkpoint(path)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    content = {"x": torch.randn(3), "y": torch.arange(2), "n": [1, 2.5, "text"]}
    write_checkpoint(path, content)
    whole, changes = path.read_bytes(), random.Random(0)
    noticed = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= changes.randrange(1, 256)
        path.write_bytes(changed)
        try:
            assert_same(read_checkpoint(path), content)  # blanks that pad the header mean nothing
        except DamagedCheckpointError:
            noticed += 1
    assert noticed > len(whole) - 16


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"x": torch.ones(1)}, path)
    with pytest.raises(DamagedCheckpointError, match="format is None, not 'passband-checkpoint-1'"):
        read_checkpoint(path)
    path.write_text(json.dumps({"x": 1}))
    with pytest.raises(DamagedCheckpointError, match="is damaged"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "b.safetensors")

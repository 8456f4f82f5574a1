"""One process with SyncBatchNorm in blocks and SpecNets; `test_distributed.py` starts two.

python -m tests.compat.synchronised_blocks RANK PROCESSES FOLDER

In training, blocks of exact memory and a SpecNet at threshold 0 on a part of the batch have to do
what torch's BatchNorm does on the whole of it (torch's SyncBatchNorm does so on a GPU only); in
evaluation and in a group of this process alone, what torch's BatchNorm does on the part.
"""

import copy
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import passband as pb

KINDS = ["conv-bn-relu-max pool", "bn-silu-conv"]
# Float64 sums of a few hundred terms, in another order.
TOLERANCE = 1e-10


def mixed() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=None), nn.ReLU(), nn.MaxPool2d(2),
        nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 4, 3),
    ).double()  # fmt: skip


def blocks_of(model: nn.Module) -> nn.Module:
    blocks = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    report = pb.convert(blocks, pb.BandLimit(memory="exact"), filter_fn=lambda *_: False)
    assert [block.kind for block in report.blocks] == KINDS
    return blocks


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=None), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
    ).double()  # fmt: skip


def spectral(model: nn.Module) -> nn.Module:
    own = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    config = pb.SpecNet(0.0, activation="relu", pool="max", batch_norm="keep")
    pb.convert(own, config, torch.zeros(2, 3, 7, 9, dtype=torch.float64))
    return own


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    output = model(x)
    output.square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **found}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    # the bias before a batch norm has no gradient but rounding
    norms = {name: value.double().norm().item() for name, value in expected.items()}
    least = 1e-3 * max(norms.values())
    for name, value in expected.items():
        error = (found[name] - value).double().norm().item()
        assert error <= TOLERANCE * max(norms[name], least), name


def check(
    rank: int, network: Callable[[], nn.Sequential], convert: Callable[[nn.Module], nn.Module]
) -> None:
    torch.manual_seed(0)
    model = network()
    converted = convert(model)
    x = torch.randn(8, 3, 7, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = x.split([3, 5])  # of different sizes

    for _ in range(2):  # running statistics of more than one step
        expected, found = gradients(model, x), gradients(converted, parts[rank])
        expected["output"] = expected["output"].split([3, 5])[rank]
        for name, value in found.items():
            if name != "output":
                dist.all_reduce(value)
        assert_close(found, expected)
        assert_close(converted.state_dict(), model.state_dict())

    assert_close(*(gradients(m.eval(), parts[rank]) for m in (converted, model)))

    groups = [dist.new_group([member]) for member in range(dist.get_world_size())]
    alone = converted.train()
    for norm in alone.modules():
        if isinstance(norm, nn.SyncBatchNorm):
            norm.process_group = groups[rank]
    assert_close(*(gradients(m.train(), parts[rank]) for m in (alone, model)))


def main(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=60),
    )
    check(rank, mixed, blocks_of)
    check(rank, plain, spectral)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

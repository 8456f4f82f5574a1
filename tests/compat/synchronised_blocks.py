"""One process with SyncBatchNorm in blocks of exact memory; `test_distributed.py` starts two.

python -m tests.compat.synchronised_blocks RANK PROCESSES FOLDER

On a CPU torch's SyncBatchNorm refuses to average over processes. A block has to do what it does:
refuse in training, with the same words and the same state after it, and be one operation in
evaluation, where nothing is averaged, and in a group of this process alone.
"""

import copy
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import passband as pb


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    return nn.SyncBatchNorm.convert_sync_batchnorm(layers)


def blocks_of(model: nn.Module) -> nn.Module:
    blocks = copy.deepcopy(model)
    report = pb.convert(blocks, pb.BandLimit(memory="exact"), filter_fn=lambda *_: False)
    assert [block.kind for block in report.blocks] == ["conv-bn-relu"]
    return blocks


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    output = model(x)
    output.square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **found}


def refusal(model: nn.Module, x: Tensor) -> str:
    try:
        model(x)
    except ValueError as error:
        return str(error)
    return ""


def main(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=60),
    )
    model = network()
    blocks = blocks_of(model)
    x = torch.randn(4, 3, 7, 9, generator=torch.Generator().manual_seed(rank))
    assert "SyncBatchNorm" in refusal(model, x) == refusal(blocks, x)
    for name, value in model.state_dict().items():
        assert torch.equal(value, blocks.state_dict()[name]), name

    results = [gradients(network.eval(), x) for network in (model, blocks)]
    assert torch.equal(results[0]["output"], results[1]["output"])
    for name, expected in results[0].items():
        # float32 sums of a few hundred terms, in another order
        assert (results[1][name] - expected).norm() <= 1e-5 * expected.norm(), name

    groups = [dist.new_group([member]) for member in range(processes)]
    alone = blocks_of(model).train()
    alone[1].process_group = groups[rank]
    assert alone(x).grad_fn.name() == "_ConvBlockBackward"
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

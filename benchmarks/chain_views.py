"""Tables of the frequency chain for the documents."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from tables import Results, Row, cell, markdown

ENGINES = {
    "pytorch": "PyTorch",
    "pytorch_channels_last": "PyTorch, channels-last",
    "torch_compile": "torch.compile",
    "aot_inductor": "AOTInductor",
    "onnx_runtime": "ONNX Runtime",
    "openvino": "OpenVINO",
}

CONTENDERS = {
    "chain": "chain",
    "small": "small",
    "chain-budget": "chain, budget",
    "small-budget": "small, budget",
    "chain-budget-taught": "chain, budget, taught",
    "small-budget-taught": "small, budget, taught",
    "pruned": "DepGraph",
}


def engines(results: "Results") -> str:
    """Dense and chain, each in the existing engine that is fastest for it, and ours."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in results.rows("engines"):
        if row["ms"]:
            groups[row["network"], row["keep"], row["per_layer"], row["batch"]].append(row)
    body = []
    for (network, keep, per_layer, batch), rows in groups.items():
        dense, chain = (
            min(
                (r for r in rows if r["kind"] == kind and r["engine"] in ENGINES),
                key=lambda row: float(row["ms"]),
            )
            for kind in ("dense", "chain")
        )
        (ours,) = [row for row in rows if row["engine"] == "passband"] or [None]
        reached = ours is not None and 2 * float(ours["time_ratio"]) >= float(ours["macs_ratio"])
        body.append(
            [
                network,
                f"{keep}, {'by budget' if per_layer else 'uniform'}",
                batch,
                cell(chain["macs_ratio"]),
                f"{cell(dense['ms'])} ({ENGINES[dense['engine']]})",
                f"{cell(chain['ms'])} ({ENGINES[chain['engine']]})",
                cell(chain["time_ratio"]),
                "-" if ours is None else cell(ours["ms"]),
                "-" if ours is None else cell(ours["time_ratio"]),
                "yes" if reached else "no",
                cell(chain["onnx_bytes"], 2**-10),
            ]
        )
    titles = (
        "network", "keep", "batch", "fewer multiplications", "dense (ms)", "chain (ms)", "faster",
        "chain, ours (ms)", "faster", "half of the multiplications' ratio", "ONNX file (KiB)",
    )  # fmt: skip
    return markdown(titles, body) + results.caption("engines")


def accuracy(results: "Results") -> str:
    """A line per network and fraction kept: the test accuracy of every contender."""
    groups: dict[tuple[str, str, str], dict[str, Row]] = defaultdict(dict)
    whole = {}
    for row in results.rows("frequency-cifar10"):
        budget = f"{row['epochs']} x {row['images']}"
        if row["contender"] == "dense":
            whole[row["network"], budget] = row
        else:
            groups[row["network"], budget, row["keep"]][row["contender"]] = row
    shown = [name for name in CONTENDERS if any(name in rows for rows in groups.values())]
    body = []
    for (network, budget, keep), rows in groups.items():
        fewer = [rows.get(name, {}).get("macs_ratio", "") for name in ("chain", "small-budget")]
        body.append(
            [
                network,
                budget,
                keep,
                " / ".join(map(cell, fewer)),
                *(_percent(rows.get(name)) for name in shown),
                _percent(whole.get((network, budget))),
            ]
        )
    body += _means(list(groups.items()), shown)
    titles = (
        "network", "epochs x images", "keep", "times fewer: corners / budget",
        *(CONTENDERS[name] for name in shown), "dense",
    )  # fmt: skip
    return markdown(titles, body) + results.caption("frequency-cifar10")


def _means(
    groups: Sequence[tuple[tuple[str, str, str], dict[str, Row]]], shown: Sequence[str]
) -> list[list[str]]:
    """A line per fraction kept: the means over the networks that were pruned to all of them."""
    pruned = [(network, keep, rows) for (network, _, keep), rows in groups if "pruned" in rows]
    keeps = sorted({keep for _, keep, _ in pruned}, key=float, reverse=True)
    of_network = Counter(network for network, _, _ in pruned)
    body = []
    for keep in keeps:
        own = [rows for name, k, rows in pruned if k == keep and of_network[name] == len(keeps)]
        if not own:
            continue
        fewer = sum(float(rows["small-budget"]["macs_ratio"]) for rows in own) / len(own)
        body.append([f"**mean of {len(own)}**", "", keep, f"- / {fewer:.3g}"])
        for name in shown:
            there = [100 * float(rows[name]["test_accuracy"]) for rows in own if name in rows]
            complete = len(there) == len(own)
            body[-1].append(f"**{sum(there) / len(own):.1f}**" if complete else "-")
        body[-1].append("")
    return body


def _percent(row: Row | None) -> str:
    return "-" if row is None else f"{100 * float(row['test_accuracy']):.1f}"

"""Tables of the frequency chain for the documents."""

from collections import defaultdict

from tables import Results, Row, cell, markdown

ENGINES = {
    "pytorch": "PyTorch",
    "pytorch_channels_last": "PyTorch, channels-last",
    "torch_compile": "torch.compile",
    "aot_inductor": "AOTInductor",
    "onnx_runtime": "ONNX Runtime",
    "openvino": "OpenVINO",
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

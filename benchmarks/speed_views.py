"""Tables of speed and precision for the documents, from what `passband bench` wrote."""

import math
from collections import defaultdict
from collections.abc import Callable

from tables import DEFAULT, KEPT, Results, Row, cell, figure, markdown

Counts = Callable[[str, Row], bool]  # whether a row of a kind is one that a target speaks of
Judge = Callable[[list[Row]], "tuple[float, str]"]  # the ratio that counts, and what it is of

CONTENDERS = {
    "native": "nn.Conv",
    "channels_last": "nn.Conv, channels-last",
    "compiled": "nn.Conv, compiled",
    "textbook": "textbook FFT",
    "auto": "ours",
    "converted": "converted",
    "converted_channels_last": "converted, channels-last",
}


def layer_name(row: Row) -> str:
    channels = row["in_channels"]
    if row["out_channels"] != channels:
        channels += f" to {row['out_channels']}"
    return f"{channels} channels, {row['map']}, k={row['kernel']}, B={row['batch']}"


def geometric_mean(rows: list[Row]) -> tuple[float, str]:
    logs = [math.log(float(row["ratio"])) for row in rows]
    return math.exp(sum(logs) / len(logs)), f"{len(rows)} layer{'s' * (len(rows) > 1)}"


def worst(rows: list[Row]) -> tuple[float, str]:
    row = min(rows, key=lambda row: float(row["ratio"]))
    return float(row["ratio"]), f"{layer_name(row)}, {row['mode']}"


def the_one(rows: list[Row]) -> tuple[float, str]:
    return float(rows[0]["ratio"]), ""


def _is_target_layer(row: Row, kernels: str = "357") -> bool:
    """Of the layers that the targets speak of: maps, batches of 32 and 128."""
    return "x" in row["map"] and row["batch"] in ("32", "128") and row["kernel"] in kernels


def _layers(mode: str = "", kernels: str = "357") -> Counts:
    return lambda kind, row: (
        kind == "layers" and _is_target_layer(row, kernels) and mode in ("", row["mode"])
    )


def _small_batch(batch: str) -> Counts:
    return lambda kind, row: (
        kind == "layers"
        and "x" in row["map"]
        and row["batch"] == batch
        and row["mode"] == "inference"
    )


def _network(name: str, batch: str, mode: str) -> Counts:
    return lambda kind, row: (
        kind == "networks"
        and row["network"] == name
        and row["input"].split("x")[0] == batch
        and row["mode"] == mode
    )


# What is to be reached: name, the rows that count, how they are summed up, and the least ratio at
# c = 0.5 and at c = 0.85; nothing where it is only shown.
RESNET, FCN = "ResNet-18", "FCN, length 270"
TARGETS: tuple[tuple[str, Counts, Judge, tuple[float, ...]], ...] = (
    ("3x3, geometric mean, training", _layers("training", "3"), geometric_mean, (2, 5)),
    ("3x3, geometric mean, inference", _layers("inference", "3"), geometric_mean, (2, 5)),
    ("5x5, geometric mean, training", _layers("training", "5"), geometric_mean, (4, 10)),
    ("7x7, geometric mean, training", _layers("training", "7"), geometric_mean, (8, 20)),
    ("worst layer, training or inference", _layers(), worst, (0.95, 1)),
    (f"{RESNET}, B=128, training step", _network("resnet18", "128", "training"), the_one, (1.5, 3)),
    (f"{FCN}, B=64, training step", _network("fcn", "64", "training"), the_one, (1.5, 2.5)),
    ("5x5, geometric mean, inference", _layers("inference", "5"), geometric_mean, ()),
    ("7x7, geometric mean, inference", _layers("inference", "7"), geometric_mean, ()),
    ("3x3 at B=8, geometric mean, inference", _small_batch("8"), geometric_mean, ()),
    ("3x3 at B=1, geometric mean, inference", _small_batch("1"), geometric_mean, ()),
    (f"{RESNET}, B=128, inference", _network("resnet18", "128", "inference"), the_one, ()),
    (f"{RESNET}, B=8, inference", _network("resnet18", "8", "inference"), the_one, ()),
    (f"{RESNET}, B=1, inference", _network("resnet18", "1", "inference"), the_one, ()),
    (f"{FCN}, B=64, inference", _network("fcn", "64", "inference"), the_one, ()),
)  # fmt: skip
FULL_BAND_TARGET = 0.95


def _short(mode: str) -> Counts:
    return lambda kind, row: (
        kind == "layers"
        and _is_target_layer(row, "3")
        and (row["batch"], row["mode"]) == ("32", mode)
    )


TWICE: tuple[tuple[str, Counts, Judge], ...] = (
    ("3x3 at B=32, geometric mean, training", _short("training"), geometric_mean),
    ("3x3 at B=32, geometric mean, inference", _short("inference"), geometric_mean),
    (f"{RESNET}, B=128, training step", _network("resnet18", "128", "training"), the_one),
    (f"{RESNET}, B=128, inference", _network("resnet18", "128", "inference"), the_one),
    (f"{FCN}, B=64, training step", _network("fcn", "64", "training"), the_one),
    (f"{FCN}, B=64, inference", _network("fcn", "64", "inference"), the_one),
)


def judged(rows: list[Row], judge: Judge, target: float | None) -> str:
    """What was measured, and whether it reaches the target."""
    if not rows:
        return "not measured"
    value, where = judge(rows)
    verdict = "" if target is None else ", **met**" if value >= target else ", missed"
    return f"{figure(value)}{verdict}{f' ({where})' if where else ''}"


def targets(results: "Results") -> str:
    kinds = {kind: results.rows(kind) for kind in ("layers", "networks")}
    body = []
    for name, counts, judge, least in TARGETS:
        line = [name]
        for index, compression in enumerate((0.5, 0.85)):
            target = least[index] if least else None
            rows = [
                row
                for kind, measured in kinds.items()
                for row in measured
                if float(row["compression"]) == compression and counts(kind, row)
            ]
            line += ["" if target is None else f">= {target:g}", judged(rows, judge, target)]
        body.append(line)
    full = [r for r in kinds["layers"] if float(r["compression"]) == 0 and _is_target_layer(r)]
    body.append(
        [
            "full band (c = 0), worst layer",
            f">= {FULL_BAND_TARGET}",
            judged(full, worst, FULL_BAND_TARGET),
            "",
            "",
        ]
    )
    titles = (
        "torch's time over ours",
        "target, c = 0.5",
        "measured",
        "target, c = 0.85",
        "measured",
    )
    return markdown(titles, body) + results.caption("layers", "networks")


def freed_memory(results: "Results") -> str:
    """What was measured twice: where freed memory is kept, and with the C library's settings."""
    body = []
    for name, counts, judge in TWICE:
        line = [name]
        for compression in (0.5, 0.85):
            for memory in (DEFAULT, KEPT):
                rows = [
                    row
                    for kind in ("layers", "networks")
                    for row in results.rows(kind, memory)
                    if float(row["compression"]) == compression and counts(kind, row)
                ]
                line.append(figure(judge(rows)[0]) if rows else "-")
        body.append(line)
    titles = (
        "torch's time over ours",
        *(f"c = {c}, freed memory {how}" for c in (0.5, 0.85) for how in ("given back", "kept")),
    )
    return markdown(titles, body) + results.caption("layers", "networks")


def short_layers(results: "Results") -> str:
    """The 3x3 layers at batch 32, training and inference side by side."""
    chosen = [r for r in results.rows("layers") if (r["batch"], r["kernel"]) == ("32", "3")]
    pairs: dict[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    for row in chosen:
        if row["compression"] in ("0", "0.0", "0.5", "0.85"):
            pairs[row["in_channels"], row["map"], row["compression"]][row["mode"]] = row
    body = []
    for (channels, size, compression), modes in pairs.items():
        training, inference = modes["training"], modes["inference"]
        body.append(
            [
                channels,
                size,
                f"{float(compression):g}",
                cell(training["realised_compression"], 100),
                *(
                    text
                    for row in (training, inference)
                    for text in (cell(row["ratio"]), row["algorithm"], _winner(row))
                ),
                cell(training["native_saved_bytes"], 2**-20),
                cell(training["saved_bytes"], 2**-20),
            ]
        )
    titles = (
        "channels", "map", "c", "discarded (%)", "training", "by", "won by", "inference", "by",
        "won by", "kept by torch (MiB)", "kept (MiB)",
    )  # fmt: skip
    return markdown(titles, body) + results.caption("layers")


# Columns of times and their titles, shown where anything was measured.
LAYER_TIMES = {
    "native_ms": "NCHW",
    "channels_last_ms": "channels-last",
    "compiled_ms": "compiled",
    "textbook_ms": "textbook FFT",
    "downsampled_ms": "downsampled",
    "auto_ms": "ours",
    "matmul_ms": "matmul",
    "lowpass_ms": "lowpass",
}
NETWORK_TIMES = {
    "native_ms": "NCHW",
    "channels_last_ms": "channels-last",
    "compiled_ms": "compiled",
    "converted_ms": "converted",
    "converted_channels_last_ms": "converted, channels-last",
}


def _measured(times: dict[str, str], rows: list[Row]) -> list[tuple[str, str]]:
    return [(name, title) for name, title in times.items() if any(row[name] for row in rows)]


def layers(results: "Results") -> str:
    return _layer_table(results.rows("layers")) + results.caption("layers")


def growth(results: "Results") -> str:
    """A table for each axis."""
    parts = []
    axes: dict[str, list[Row]] = defaultdict(list)
    for row in results.rows("growth"):
        axes[row["axis"]].append(row)
    for axis, rows in axes.items():
        parts.append(f"Along the {axis}:\n\n{_layer_table(rows, work=False)}")
    return "\n".join(parts) + results.caption("growth")


def _layer_table(rows: list[Row], work: bool = True) -> str:
    measured = _measured(LAYER_TIMES, rows)
    titles = ["channels", "map", "k", "B", "c", "mode", *(f"{title} (ms)" for _, title in measured)]
    titles += ["ratio", "rounds from-to", "by", "won by"]
    if work:
        titles += ["M mult. torch", "ours", "MB torch", "ours", "of bound torch", "ours (%)"]
    body = []
    for row in rows:
        same = row["in_channels"] == row["out_channels"]
        line = [
            row["in_channels"] if same else f"{row['in_channels']} to {row['out_channels']}",
            row["map"],
            row["kernel"],
            row["batch"],
            f"{float(row['compression']):g}",
            row["mode"],
            *(cell(row[name]) for name, _ in measured),
            cell(row["ratio"]),
            f"{cell(row['lowest_ratio'])}-{cell(row['highest_ratio'])}",
            row["algorithm"],
            _winner(row),
        ]
        if work:
            line += [cell(row[f"{by}multiplications"], 1e-6) for by in ("native_", "")]
            line += [cell(row[f"{by}bytes"], 1e-6) for by in ("native_", "")]
            line += [cell(row[f"{by}of_bound"], 100) for by in ("native_", "")]
        body.append(line)
    return markdown(titles, body)


def networks(results: "Results") -> str:
    rows = results.rows("networks")
    measured = _measured(NETWORK_TIMES, rows)
    titles = ["network", "input", "c", "mode", *(f"{title} (ms)" for _, title in measured)]
    titles += ["ratio", "rounds from-to", "won by", "algorithms"]
    titles += ["G mult. torch", "ours", "of bound torch", "ours (%)"]
    body = [
        [
            row["network"],
            row["input"],
            f"{float(row['compression']):g}",
            row["mode"],
            *(cell(row[name]) for name, _ in measured),
            cell(row["ratio"]),
            f"{cell(row['lowest_ratio'])}-{cell(row['highest_ratio'])}",
            _winner(row),
            row["algorithms"],
            *(cell(row[f"{by}multiplications"], 1e-9) for by in ("native_", "")),
            *(cell(row[f"{by}of_bound"], 100) for by in ("native_", "")),
        ]
        for row in rows
    ]
    return markdown(titles, body) + results.caption("networks")


def precision(results: "Results") -> str:
    """The largest error over all shapes and bands, for each algorithm and type."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in results.rows("precision"):
        groups[row["numbers"], row["algorithm"]].append(row)
    body = []
    for (numbers, algorithm), rows in sorted(
        groups.items(), key=lambda item: list(dict.fromkeys(n for n, _ in groups)).index(item[0][0])
    ):
        errors = [
            [float(row[name]) for row in rows if row[name]]
            for name in ("output", "input_gradient", "weight_gradient")
        ]
        name = "nn.Conv, full band" if algorithm == "torch" else algorithm
        body.append([numbers, name, *(f"{max(e):.1e}" if e else "-" for e in errors)])
    titles = ("numbers", "algorithm", "output", "gradient of the input", "gradient of the filters")
    return markdown(titles, body) + results.caption("precision")


def curve(results: "Results") -> str:
    """The figure that stands beside the CSV of layers."""
    picture = results.file("layers").with_suffix(".svg")
    if not picture.exists():
        return f"{picture.name} is not drawn yet.\n"
    return f"![Ratio against compression]({results.link(picture)})\n"


def _winner(row: Row) -> str:
    return CONTENDERS.get(row["winner"], row["winner"])

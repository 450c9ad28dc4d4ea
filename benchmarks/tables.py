"""The documents' tables, made of `results/*.json`.

    python benchmarks/tables.py [--check]

A document has a table between `<!-- table: NAME -->` and `<!-- /table -->`; NAME is one of `TABLES` below. Everything
between the marks is written anew; with --check nothing is, and what would change is named, with exit code 1.
"""

from __future__ import annotations

import argparse
import collections
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from _cells import Cell, either, gain, interval, key, quality, text, times_cpu, tool, value
from _result import RESULTS, ROOT, Row, read_rows

from edgecnn.zoo import cards

MARK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- /table -->)", re.DOTALL)
MOST_COMMANDS = 4


class Table(NamedTuple):
    """One table: which rows of which benchmark, the title and text of each column, and a sentence above it."""

    benchmark: str
    sentence: str
    columns: Mapping[str, Cell]
    rows: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows


def by_tool(rows: Sequence[Row]) -> list[Row]:
    """One row for each network and number of images: every tool's multiple of the plain forward, and its memory."""
    made: dict[tuple[str, int, bool], Row] = {}
    for row in rows:
        key = (row["network"], row["images"], row["busy"])
        whole = made.setdefault(key, {k: row[k] for k in ("network", "images", "busy")})
        whole[row["tool"]] = row
    return list(made.values())


def with_error(method: str) -> Cell:
    """SQNR with every value counted, and what counting a part adds, with the standard error where there is one."""

    def text(row: Row) -> str:
        said = f"{row[f'{method}_exact_db']:.2f} {row[f'{method}_difference_db']:+.2f}"
        error = row.get(f"{method}_difference_se_db")
        return said if error is None else f"{said} ± {error:.2f}"

    return text


def mean_db(method: str) -> Cell:
    """The mean over the draws of a method's SQNR."""

    def text(row: Row) -> str:
        found = row.get(method, {}).get("sqnr_db")
        return "-" if found is None else f"{statistics.mean(found):.2f}"

    return text


def sqnr_and_agreement(method: str) -> Cell:
    """dB / per cent."""
    return lambda row: "{sqnr_db:.1f} / {agreement_pct:.1f}".format(**row[method])


def by_exporter(rows: Sequence[Row]) -> list[Row]:
    """One row for each origin and exporter of real_graphs.txt: how many are listed, run, and what became of them."""
    lines = (ROOT / "benchmarks" / "real_graphs.txt").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    listed = collections.Counter((origin, exporter) for origin, _, exporter in words)
    return [{"origin": o, "exporter": e, "listed": n, **counted(rows, o, e)} for (o, e), n in listed.items()] + [
        {"origin": "all", "exporter": "all", "listed": sum(listed.values()), **counted(rows)}
    ]


def counted(rows: Sequence[Row], *key: str) -> Row:
    """Outcomes of the rows of an origin and exporter, or of all; and the INT8 of both tools on what both carry."""
    mine = [r for r in rows if not key or (r["origin"], r["exporter"]) == key]
    made: Row = {"run": len(mine), **collections.Counter(r["outcome"] for r in mine)}
    both = [r["cpu_sqnr_db"] - r["ort_sqnr_db"] for r in mine if "cpu_sqnr_db" in r and "ort_sqnr_db" in r]
    made["ort"] = sum("ort_sqnr_db" in r for r in mine)
    made["within"] = f"{sum(db >= -0.5 for db in both)} of {len(both)}"
    tried = [r for r in mine if "modelopt_sqnr_db" in r or "modelopt_failed" in r]
    made["modelopt"] = f"{sum('modelopt_sqnr_db' in r for r in tried)} of {len(tried)}"
    return made


def not_passed(rows: Sequence[Row]) -> list[Row]:
    """What did not go through, and what ONNX Runtime's quantizer says to it."""
    said = {True: "carries", False: "fails"}
    return [{**r, "ort": said["ort_sqnr_db" in r]} for r in rows if r["outcome"] in ("refused", "failed")]


def in_order_of_the_zoo(rows: Sequence[Row]) -> list[Row]:
    """As `edgecnn models` lists them."""
    order = list(cards())
    return sorted(rows, key=lambda row: order.index(row["network"]))


TABLES = {
    "int8-peers": Table(
        "int8_vs_peers",
        "SQNR in dB / agreement in %; both of edgecnn's graphs leave out what the tool left out. Illegal: refused by"
        " TensorRT's rules, and not scored.",
        {
            "network": key("network"),
            "scheme": key("scheme"),
            "tool": lambda row: f"{row['tool']} {row.get('version', '')}".strip(),
            "images": value("n", 0),
            "INT8, % of multiply-adds": value("int8_share_pct"),
            "left in float": lambda row: f"{len(row['float_nodes'])}" if "float_nodes" in row else "-",
            "the tool": quality(),
            "edgecnn mse": quality("mse"),
            "edgecnn auto": quality("auto"),
            "CPU, auto / tool": times_cpu("auto"),
        },
        lambda rows: sorted(rows, key=lambda row: (row["scheme"] == "ort-cpu", row["network"])),
    ),
    "ranges-cost": Table(
        "ranges_cost",
        "CPU seconds and peak memory of whole processes in turn, two threads each: `edgecnn calibrate`, and one that"
        " reads the same decoded images and runs the same graph in ONNX Runtime. Ratio: `calibrate` / plain.",
        {
            "network": key("network"),
            "images": value("images", 0),
            "neighbors": either("busy", "two busy loops", "none"),
            "CPU ratio": value("cpu_ratio"),
            "CPU s": value("calibrate_cpu_s"),
            "plain CPU s": value("plain_cpu_s"),
            "MB": value("calibrate_peak_mb", 0),
            "plain MB": value("plain_peak_mb", 0),
        },
        lambda rows: sorted(rows, key=lambda row: (row["network"], -row["images"], row["busy"])),
    ),
    "sensitivity-cost": Table(
        "sensitivity_cost",
        "CPU seconds and peak memory of whole processes in turn, two threads each: `edgecnn sensitivity` of all nodes,"
        " and one that runs the graph over the same images once. SQNR of the whole INT8 graph's logits, and as the sum"
        " of all nodes' noise alone predicts it.",
        {
            "network": key("network"),
            "images": value("images", 0),
            "quantizers": value("quantizers", 0),
            "CPU ratio": value("cpu_ratio", 1),
            "CPU s": value("sensitivity_cpu_s", 1),
            "plain CPU s": value("plain_cpu_s", 1),
            "MB": value("sensitivity_peak_mb", 0),
            "SQNR dB": value("sqnr_db"),
            "predicted dB": value("predicted_sqnr_db"),
        },
        lambda rows: sorted(rows, key=lambda row: (row["network"], -row["images"])),
    ),
    "search-proof": Table(
        "search_proof",
        "What `edgecnn search` found on a processor, its drop's upper 95 % bound, its latency over the float graph's"
        " and over that of the fastest graph by hand, with the 95 % interval of interleaved blocks; seconds are those"
        " of the whole search.",
        {
            "network": key("network"),
            "max drop pp": value("max_drop_pp"),
            "nodes in float": value("kept", 0),
            "INT8 %": value("int8_share_pct", 1),
            "bound pp": value("drop_bound_pp"),
            "over float": value("float_ratio", 3),
            "best k by hand": value("hand_k", 0),
            "over it": value("ratio", 3),
            "its interval": interval("ratio_ci"),
            "trials": value("trials", 0),
            "CPU s": value("search_cpu_s", 0),
        },
        lambda rows: sorted(rows, key=lambda row: -row["max_drop_pp"]),
    ),
    "ranges-quality": Table(
        "ranges_quality",
        "SQNR of the logits on held-out images in dB with every value counted, and the difference with a part counted,"
        " with the standard error of its mean over the draws of images.",
        {
            "network": key("network"),
            "images": value("images", 0),
            "draws": value("draws", 0),
            "extremes that differ": value("extremes_differ", 0),
            **{method: with_error(method) for method in ("percentile", "entropy", "mse")},
        },
        lambda rows: sorted(rows, key=lambda row: (row["network"], -row["images"])),
    ),
    "real-graphs": Table(
        "real_graphs",
        "Real classifiers of seeded weights, as their own tools export them, through `import`, `calibrate`, FP16, INT8"
        " for TensorRT and for the CPU, each in processes with a limit of memory and of ten minutes; beside"
        " `onnxruntime.quantization.quantize_static` (min-max, per channel, the same images) and ModelOpt. Within:"
        " INT8 for the CPU loses at most 0.5 dB more of the logits than `quantize_static`, where both carry it. The"
        " list was written before anything was mended: `benchmarks/real_graphs.txt`.",
        {
            "origin": text("origin"),
            "exporter": text("exporter"),
            "listed": text("listed"),
            "run": text("run"),
            "passed": value("passed", 0),
            "refused": value("refused", 0),
            "failed": value("failed", 0),
            "not exported": value("not exported", 0),
            "`quantize_static` carries": text("ort"),
            "within 0.5 dB": text("within"),
            "ModelOpt carries": text("modelopt"),
        },
        by_exporter,
    ),
    "real-graphs-stopped": Table(
        "real_graphs",
        "Those that did not go through.",
        {
            "graph": key("name"),
            "origin": text("origin"),
            "exporter": text("exporter"),
            "outcome": text("outcome"),
            "step": text("step"),
            "reason": text("reason"),
            "`quantize_static`": text("ort"),
        },
        not_passed,
    ),
    "steps-cost": Table(
        "steps_cost",
        "CPU seconds of whole processes, this checkout and BASE in turn, the median of the rounds; MB: peak memory."
        " `again` is a run that finds everything up to date.",
        {
            "network": key("network"),
            "step": text("step"),
            "CPU ratio": value("cpu_ratio"),
            "CPU s": value("made_cpu_s", 1),
            "BASE CPU s": value("base_cpu_s", 1),
            "MB": value("made_peak_mb", 0),
            "BASE MB": value("base_peak_mb", 0),
            "BASE": lambda row: row["base_commit"][:10],
        },
    ),
    "validate-speed": Table(
        "validate_speed",
        "Whole processes in turn, two threads each: `edgecnn validate`, and a plain loop of PIL and ONNX Runtime over"
        " the same JPEGs. Ratio: `validate` / plain loop.",
        {
            "network": key("network"),
            "images": value("images", 0),
            "neighbors": either("busy", "two busy loops", "none"),
            "CPU ratio": value("cpu_ratio"),
            "clock ratio": value("clock_ratio"),
            "CPU s": value("validate_cpu_s", 1),
            "plain CPU s": value("plain_cpu_s", 1),
            "MB": value("validate_peak_mb", 0),
            "plain MB": value("plain_peak_mb", 0),
        },
    ),
    "export-speed": Table(
        "export_speed",
        "Whole processes in turn, from weights to the file: `edgecnn export`, checked and compared with PyTorch in ONNX"
        " Runtime at batch 1 and 3, and `torch.onnx.export(dynamo=True)`, which compares nothing. Ratio: `edgecnn` /"
        " torch.onnx.",
        {
            "network": key("network"),
            "neighbors": either("busy", "two busy loops", "none"),
            "CPU ratio": value("cpu_ratio"),
            "CPU s": value("edgecnn_cpu_s", 1),
            "torch.onnx CPU s": value("torch_cpu_s", 1),
            "MB": value("edgecnn_peak_mb", 0),
            "torch.onnx MB": value("torch_peak_mb", 0),
            "weights MB": value("weights_mb", 0),
            "nodes": value("edgecnn_nodes", 0),
            "torch.onnx nodes": value("torch_nodes", 0),
        },
    ),
    "exports": Table(
        "networks",
        "`edgecnn export` with seeded weights, in one process for all. Difference: the largest between ONNX Runtime and"
        " PyTorch over batch 1 and 3, as a share of max |logit| (allowed 1e-4).",
        {
            "network": key("network"),
            "parameters": lambda row: f"{row['params']:,}",
            "nodes": value("nodes", 0),
            "MB": value("size_mb", 1),
            "CPU s": value("cpu_s", 1),
            "max difference": lambda row: f"{row['max_difference']:.1e}",
        },
        in_order_of_the_zoo,
    ),
    "fp16-rounding": Table(
        "fp16_rounding",
        "An FP16 graph in ONNX Runtime's CPU provider as it is and rounded at every FP16 tensor, CPU time of one thread"
        " in turn; SQNR of the logits against FP32, on two images also of `onnx.reference`. Gaussian images.",
        {
            "graph": key("graph"),
            "batch": value("batch", 0),
            "as it is, ms": value("plain_cpu_ms", 1),
            "rounded, ms": value("rounded_cpu_ms", 1),
            "ratio": value("cpu_ratio"),
            "as it is, dB": value("plain_sqnr_db", 1),
            "rounded, dB": value("rounded_sqnr_db", 1),
            "`onnx.reference`, dB": value("reference_sqnr_db", 1),
        },
    ),
    "quantize-cost": Table(
        "quantize_cost",
        "CPU time of whole processes as multiples of one that reads the same images and runs the plain graph in ONNX"
        " Runtime with two threads / peak memory in MB.",
        {
            "network": key("network"),
            "images": value("images", 0),
            "neighbors": either("busy", "two busy loops", "none"),
            "`calibrate`, all methods": tool("calibrate"),
            "`quantize` by mse, from ranges": tool("quantize"),
            "ONNX Runtime MinMax": tool("ort-MinMax"),
            "ONNX Runtime Entropy": tool("ort-Entropy"),
            "ONNX Runtime Percentile": tool("ort-Percentile"),
            "NNCF": tool("nncf"),
            "ModelOpt max": tool("modelopt-max"),
            "ModelOpt entropy": tool("modelopt-entropy"),
        },
        by_tool,
    ),
    "calibration-sets": Table(
        "calibration_sets",
        "SQNR of the logits in dB, mean over the draws of calibration images; auto - mse: of each draw; before: `auto`"
        " of the checkout that it is held against; ORT: min-max of ONNX Runtime's quantizer; agreement gained: points"
        " over ORT, paired, with its 95 % interval over the images measured on.",
        {
            "network": key("network"),
            "images": text("set"),
            "draws": value("seeds", 0),
            "mse": mean_db("mse"),
            "ORT": mean_db("ort-MinMax"),
            "auto before": mean_db("before"),
            "auto": mean_db("auto"),
            "auto - mse": lambda row: ", ".join(f"{gain:+.2f}" for gain in row.get("auto_over_mse_db", [])) or "-",
            "agreement gained": lambda row: "{:+.1f} [{:+.1f}, {:+.1f}]".format(
                row["beside_ort_pp"], *row["beside_ort_ci_pp"]
            ),
        },
        lambda rows: sorted(rows, key=lambda row: (row["network"], row["set"].rstrip("0123456789"), row["images"])),
    ),
    "data-free": Table(
        "data_free",
        "SQNR of the logits in dB and agreement with the float graph in per cent: ranges by 32 images that"
        " `calibrate --data-free` made, beside those by 64 real ones; `auto` with the real ones has them, without it"
        " takes least squared error.",
        {
            "network": key("network"),
            "n": value("n", 0),
            **{
                f"{method} {origin}": sqnr_and_agreement(f"{origin}_{method}")
                for method in ("minmax", "entropy", "mse", "auto")
                for origin in ("made", "real")
            },
            "CPU s": value("made_s", 0),
        },
    ),
    "qat": Table(
        "qat",
        "Top-1 in per cent: in float, as `auto` quantized it, and after `train --qat`; how much less it is than before,"
        " paired, with its 95 % interval, and what it recovers of what quantization lost. Fewer bits than 8 are the"
        " benchmark's own: as many codes fewer, each step as much larger.",
        {
            "network": key("network"),
            "bits": value("bits", 0),
            "updates": value("steps", 0),
            "n": value("n", 0),
            "float": value("float_top1_pct"),
            "quantized": value("ptq_top1_pct"),
            "trained": value("qat_top1_pct"),
            "drop, points": value("drop_to_ptq_pp"),
            "its 95 %": interval("drop_to_ptq_ci_pp", 2),
            "recovered, %": lambda row: (
                value("recovered_pct", 0)(row) if row["float_top1_pct"] > row["ptq_top1_pct"] else "-"
            ),
            "graph, dB": value("graph_sqnr_db", 1),
            "same top-1": text("same_top1"),
            "CPU s": value("cpu_s", 0),
        },
    ),
    "auto-cost": Table(
        "auto_cost",
        "`quantize --method auto` as a whole, in turn with the checkout of before and with a process that runs the"
        " float graph once over the same images; every round has other images. SQNR of the logits on images not seen,"
        " gain: mean over the rounds and its standard error.",
        {
            "network": key("network"),
            "images": value("images", 0),
            "neighbors": either("busy", "two busy loops", "none"),
            "before": lambda row: (row["base_commit"] or "-")[:10],
            "rounds": lambda row: str(len(row["made_sqnr_db"])),
            "CPU / before": value("cpu_ratio"),
            "memory / before": value("memory_ratio"),
            "SQNR gain dB": gain,
            "CPU / forward": value("made_over_forward", 1),
            "before / forward": value("base_over_forward", 1),
            "MB": value("made_peak_mb", 0),
            "MB before": value("base_peak_mb", 0),
        },
        lambda rows: sorted(rows, key=lambda row: (row["network"], row["images"], row["busy"])),
    ),
    "busy-neighbors": Table(
        "busy_neighbors",
        "What two busy loops on two cores cost: growth of a step's CPU time, divided by that of a one-thread ONNX"
        " Runtime loop; for `train` its rate beside them over that of a plain one-thread loop there; for `run` seconds"
        " by the clock.",
        {
            "step": key("name"),
            "rounds": value("rounds", 0),
            "growth / loop's growth": value("growth_over_loop"),
            "rate / plain loop's rate": value("rate_over_plain_loop"),
            "s without": value("clock_s", 0),
            "s beside": value("busy_clock_s", 0),
        },
    ),
    "scale": Table(
        "scale",
        "`list`: empty files in 1 000 class folders opened as both splits, identified and sampled in one process;"
        " a predicted row is the slope between the others. `validate`: pictures of 8 x 8 pixels; resumed: the rest of a"
        " process killed when nine tenths were done, every finished image hashed again.",
        {
            "what": key("what"),
            "files": value("count", 0),
            "measured": either("predicted", "predicted", "yes"),
            "CPU s": value("cpu_s", 1),
            "MB": value("peak_mb", 0),
            "us a file": value("us_per_file", 1),
            "bytes a file": value("bytes_per_file", 0),
            "done before": value("finished_before", 0),
            "resumed CPU s": value("resumed_cpu_s", 1),
            "resumed MB": value("resumed_peak_mb", 0),
        },
        lambda rows: sorted(rows, key=lambda row: (row["what"], row["count"])),
    ),
    "fuzz": Table(
        "fuzz",
        "Damaged files that each reader was given: taken are those that it could read all the same, refused those"
        " that were told in one line, faults what raised anything else, took over 5 s or over 1 GB.",
        {
            "reader": key("name"),
            "executions": value("executions", 0),
            "taken": value("taken", 0),
            "refused": value("refused", 0),
            "faults": value("faults", 0),
            "slowest s": value("slowest_s"),
            "MB more": value("peak_mb", 0),
            "CPU s": value("cpu_s", 0),
        },
    ),
    "drift": Table(
        "drift",
        "In how many of 100 repeats a change is found by the statistic that it moves, from so many images in the log:"
        " of photographs of ImageNet against 250 others, through MobileNetV1; of CIFAR-10 against 2 000, the class that"
        " moved named. Alarms: logs out of 400 in which nothing changed.",
        {
            "change": key("what"),
            "how": text("how"),
            "statistic": text("statistic"),
            "least n with 95 %": value("least_n", 0),
            "found % at n": lambda row: ", ".join(f"{n}: {p:.0f}" for n, p in row.get("found_pct", {}).items()) or "-",
            "alarms of 400": value("alarms", 0),
        },
    ),
    "ensembles": Table(
        "ensembles",
        "CIFAR-10 re-encoded as JPEG; latency of one image on one core, as processor time of ONNX Runtime, INT8 by its"
        " integer kernels. Gain: top-1 over the best member in float32, paired, with its 95 % interval; ratio: latency"
        " over that member's, in turn; INT8 drop: to the same graph in float32, paired.",
        {
            "graph": key("model"),
            "precision": text("precision"),
            "images": value("n", 0),
            "weights": lambda row: ", ".join(f"{w:.2f}" for w in row.get("weights", [])) or "-",
            "top-1 %": value("top1_pct"),
            "gain pp": value("gain_pp"),
            "95 %": interval("gain_ci_pp", 2),
            "ms": value("latency_cpu_ms", 2),
            "ratio": value("latency_ratio", 2),
            "INT8 drop pp": value("int8_drop_pp"),
            "of it 95 %": interval("int8_drop_ci_pp", 2),
        },
    ),
    "light": Table(
        "light",
        "Whole processes in turn, processor time of the best round beside an empty interpreter's; the wheel as pip"
        " installs it with its dependencies.",
        {
            "what": key("what"),
            "MB": value("size_mb", 1),
            "CPU ms": value("cpu_ms", 0),
            "clock ms": value("clock_ms", 0),
            "beyond an empty interpreter, ms": value("beyond_ms", 0),
            "times an empty interpreter": value("ratio", 1),
        },
    ),
    "faults": Table(
        "faults",
        "Each file operation of a command failed once, and was once the last that had an effect: no pair was torn, the"
        " command ran again, nothing temporary was left.",
        {"command": key("name"), "faults": value("faults", 0)},
    ),
    "train-speed": Table(
        "train_speed",
        "One epoch with edgecnn and one with a plain torchvision-style loop (DataLoader workers, transforms,"
        " `loss.item()`) in turn: the same network, images and settings. Ratio: images per second, edgecnn / plain.",
        {
            "network": key("name"),
            "threads": value("threads", 0),
            "batch": value("batch", 0),
            "images": value("images_per_round", 0),
            "rate ratio": value("ratio"),
            "rounds": lambda row: f"{row['rounds']}, {row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f}",
            "images/s": value("images_per_s", 1),
            "plain images/s": value("plain_images_per_s", 1),
            "loader alone": value("loader_alone_images_per_s", 0),
            "decoder alone": value("decoder_alone_images_per_s", 0),
            "model alone": value("model_alone_images_per_s", 1),
        },
        lambda rows: sorted(rows, key=lambda row: (row["name"], row["threads"], -row["images_per_round"])),
    ),
}


def made_of(rows: Sequence[Row]) -> str:
    """Where and how rows were measured, as sentences."""
    made = [row["made"] for row in rows]
    commands = sorted({re.sub(r"\.py((?: cost| quality)?) (?!-)\S+", r".py\1", m["command"]) for m in made})
    commands = [f"`{c}`" for c in commands]
    if len(commands) > MOST_COMMANDS:
        commands = [commands[0], f"{len(commands) - 1} others, which the file of results names"]
    machines = sorted({f"{m['machine']['cpu']}, {m['cores']} cores" for m in made})
    commits = sorted({m["commit"][:10] + "-dirty" * m["commit"].endswith("-dirty") for m in made})
    others = [m["others_busy_cores"] for m in made if m["others_busy_cores"] is not None]
    tools = sorted({f"{name} {version}" for m in made for name, version in m.get("tools", {}).items()})
    said = f"Made by {' and '.join(commands)} at {', '.join(commits)} on {', '.join(machines)}"
    said += f", {', '.join(tools)}" if tools else ""
    if others:
        said += f"; other work took {min(others):.1f} to {max(others):.1f} cores meanwhile"
    absent = sorted({row["tool"] for row in rows if "left_out" in row} - {r.get("tool") for r in rows if "cpu_s" in r})
    return said + "." + (f" Not installed there: {', '.join(absent)}." if absent else "")


def markdown(table: Table, results: Path = RESULTS) -> str:
    """The sentences and the table."""
    rows = read_rows(results / f"{table.benchmark}.json")
    if not rows:
        return f"{table.sentence} Not measured yet.\n"
    lines = [f"{table.sentence} {made_of(rows)}", ""]
    lines += ["| " + " | ".join(table.columns) + " |", "|---" + "|--:" * (len(table.columns) - 1) + "|"]
    lines += ["| " + " | ".join(cell(row) for cell in table.columns.values()) + " |" for row in table.rows(rows)]
    return "\n".join(lines) + "\n"


def with_tables(text: str, results: Path = RESULTS) -> str:
    """A document with its tables made anew; raises `KeyError` for the mark of a table that is not there."""
    return MARK.sub(lambda mark: mark[1] + markdown(TABLES[mark["name"]], results) + mark[4], text)


def documents() -> list[Path]:
    """Every document that may have tables."""
    return [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Rewrite the documents, or say which would change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    changed = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (made := with_tables(text)) != text:
            changed.append(str(path.relative_to(ROOT)))
            if not options.check:
                path.write_text(made, encoding="utf-8")
    print("\n".join(changed) or "nothing changes")
    if options.check and changed:
        sys.exit(1)


if __name__ == "__main__":
    main()

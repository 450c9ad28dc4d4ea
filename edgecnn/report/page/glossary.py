"""Words of a report, explained where they stand: on hover, on touch, and by the keyboard."""

from __future__ import annotations

from edgecnn.report.page.elements import Html, element

GLOSSARY = {
    "agreement": "Share of the images on which engine and reference predict the same top-1 class, right or wrong.",
    "batch": "How many images one query holds.",
    "clock": "Who measured the time: events on the device, or the host from a query's start to its end.",
    "confusion matrix": "How many images of each label (row) were taken for each class (column).",
    "device key": "What latencies can be compared: the same GPU or processor, TensorRT, power mode, clocks, threads.",
    "drop": "Top-1 of the reference less top-1 of the engine, in percentage points, on the same images. Negative: "
    "the engine is better.",
    "engine": "What a runtime executes: a TensorRT plan, or a graph under ONNX Runtime.",
    "FP16": "16-bit floating point.",
    "gained": "Images that the engine has right and the reference has wrong.",
    "INCONCLUSIVE": "Not settled: the interval lies on both sides of the limit, or the value was not measured.",
    "INT8": "8-bit integers with a scale for each tensor or channel.",
    "interval": "Where the true value lies with 95 % confidence, given how many images or queries were looked at.",
    "latency": "Time of one query: copy in, compute, copy out, as trtexec defines it.",
    "lost": "Images that the reference has right and the engine has wrong.",
    "multiply-adds": "Multiplications with an addition, of which convolutions and fully connected layers consist.",
    "p50": "The median: half of the queries took no longer.",
    "p90": "90 % of the queries took no longer.",
    "p95": "95 % of the queries took no longer.",
    "p99": "99 % of the queries took no longer.",
    "pipelined": "Queries overlap: two in flight, copies beside compute.",
    "pp": "Percentage points: the difference of two shares in per cent.",
    "ratio": "Median latency of the engine over that of the reference engine, measured in turn on one input.",
    "reference": "The network in FP32 that the engine was made from, on the same images.",
    "simulated": "Computed elsewhere with the engine's rounding: the predictions count, the time does not.",
    "single-shot": "Queries follow each other: the next begins when the one before has ended.",
    "tolerance": "The most, or the least, that the recipe allows of a figure.",
    "top-1": "Share of the labelled images whose most probable class is their label.",
    "top-5": "Share of the labelled images whose label is among the five most probable classes.",
}


def term(word: str, shown: str = "") -> Html:
    """A word of the glossary, as `shown`, with its explanation on hover and on focus."""
    return element("abbr", shown or word, title=GLOSSARY[word], tabindex="0")


def glossary() -> Html:
    """All words, for those who print the page."""
    return element("dl", *(part for word, said in GLOSSARY.items() for part in _entry(word, said)))


def _entry(word: str, said: str) -> tuple[Html, Html]:
    return element("dt", word), element("dd", said)

"""Counts as Prometheus reads them: its text format 0.0.4, for the textfile collector of node_exporter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgecnn.inspection.monitor.counts import BOUNDS, Histogram, Tally
from edgecnn.output import inert
from edgecnn.results.monitor import Network

_HELP = {
    "confidence": "Probability of the predicted class.",
    "brightness": "Mean luma of the pixels, 0 to 255.",
    "contrast": "Standard deviation of the luma, 0 to 255.",
    "sharpness": "Standard deviation of the Laplacian by the contrast.",
    "noise": "Deviation of white noise in the pixels, 0 to 255.",
}


def prometheus_text(total: Tally, network: Network, name: str) -> str:
    """All that a log holds, as counters that only grow: an hour's are `increase(X[1h])`, which does not see the first
    count of a series that was not there before; so classes begin with 0. `name` tells one log's series from another's.
    """
    return "".join(f"{line}\n" for line in _lines(total, network, {"log": name}))


def _lines(total: Tally, network: Network, labels: Mapping[str, str]) -> Iterator[str]:
    for family, said, count in (
        ("edgecnn_images_total", "Images whose logits were counted.", total.n),
        ("edgecnn_not_finite_total", "Images whose logits were not finite.", total.not_finite),
        ("edgecnn_backwards_total", "Images with a time before that of their predecessor.", total.backwards),
    ):
        yield from _family(family, said, "counter")
        yield f"{family}{_labels(labels)} {count}"
    yield from _family("edgecnn_predicted_total", "Images by the class that was predicted.", "counter")
    for k, count in enumerate(total.predicted.tolist()):
        yield f"edgecnn_predicted_total{_labels({**labels, 'class': str(k), 'label': network.label(k)})} {count}"
    for name, counts in total.histograms.items():
        if counts.any():
            yield from _histogram(f"edgecnn_{name}", _HELP[name], labels, name, counts, total.sums[name])
    if total.last_time_s is not None:
        yield from _family("edgecnn_last_image_timestamp_seconds", "Time of the latest image.", "gauge")
        yield f"edgecnn_last_image_timestamp_seconds{_labels(labels)} {total.last_time_s!r}"


def _histogram(
    family: str, said: str, labels: Mapping[str, str], name: str, counts: Histogram, total: float
) -> Iterator[str]:
    yield from _family(family, said, "histogram")
    below = counts.cumsum().tolist()
    for bound, count in zip((*map(repr, BOUNDS[name]), "+Inf"), below, strict=True):
        yield f"{family}_bucket{_labels({**labels, 'le': bound})} {count}"
    yield f"{family}_sum{_labels(labels)} {total!r}"
    yield f"{family}_count{_labels(labels)} {below[-1]}"


def _family(name: str, said: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {said}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: Mapping[str, str]) -> str:
    escaped = (f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{{{','.join(escaped)}}}"


def _escaped(value: str) -> str:
    return inert(value).replace("\\", "\\\\").replace('"', '\\"')

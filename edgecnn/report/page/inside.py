"""What is inside an engine: precisions, the layers that make the noise, and what the serving side must do."""

from __future__ import annotations

from edgecnn.data.preprocess import Preprocessing
from edgecnn.report.charts.inline import KINDS, share_mark
from edgecnn.report.details import RunDetails
from edgecnn.report.page.elements import Html, bullets, element, folded, join, section, table
from edgecnn.report.page.glossary import term
from edgecnn.results.engine import EngineFacts
from edgecnn.results.report import RunReport

SERVED = {"normalised": "normalized float32 [N, C, H, W]", "raw-nchw": "float32 pixels 0 to 255 [N, C, H, W]",
          "uint8-nhwc": "uint8 pixels [N, H, W, C]"}  # fmt: skip
OPENED = 4  # engines: of more, the layers are read on demand
GIVEN = {"logits": "logits [N, classes]", "probabilities": "probabilities [N, classes]", "top-k": "the best classes"}


def share_section(results: RunReport) -> Html:
    """How much of each engine computes in which precision, and its size."""
    rows = [
        (
            element("bdi", m.name),
            share_mark(_shares(m.facts)) if _shares(m.facts) else "",
            _told(m.facts),
            _size(m.facts),
        )
        for m in results.measurements
        if m.facts
    ]
    note = "Obtained, not asked for: read back from the engine, as shares of ", term("multiply-adds"), " or of layers."
    return section("Precision", element("p", *note, class_="note"), _bars(rows)) if rows else Html()


def _bars(rows: list[tuple[Html, Html | str, str, str]]) -> Html:
    body = [
        element(
            "tr", element("td", name), element("td", mark, class_="chart"), element("td", said), element("td", size)
        )
        for name, mark, said, size in rows
    ]
    heads = [element("th", h, scope="col") for h in ("engine", "shares", "of it", "size")]
    inner = element("table", element("thead", element("tr", *heads)), element("tbody", *body), class_="rows")
    return element("div", inner, class_="scroll", tabindex="0", role="group", aria_label="table")


def _shares(facts: EngineFacts) -> list[tuple[str, float]]:
    shares = {"fp32": facts.fp32_share_pct, "fp16": facts.fp16_share_pct, "int8": facts.int8_share_pct}
    return [(kind, shares[kind] or 0.0) for kind in reversed(KINDS) if shares[kind]]


def _told(facts: EngineFacts) -> str:
    said = [f"{kind.upper()} {pct:.1f} %" for kind, pct in _shares(facts)]
    said += [f"by {facts.shares_by}"] if facts.shares_by in ("macs", "layers") and said else []
    if facts.integer_kernels is not None and facts.weighted_nodes is not None:
        said.append(f"{facts.integer_kernels} of {facts.weighted_nodes} layers in integer kernels")
    if facts.graph_int8_share_pct is not None:
        said.append(f"{facts.graph_int8_share_pct:.1f} % INT8 in its graph")
    return ", ".join(said) or "not read"


def _size(facts: EngineFacts) -> str:
    return "-" if facts.size_mb is None else f"{facts.size_mb:.3g} MB"


def layer_section(details: RunDetails) -> Html:
    """Where `quantize --explain` ran: the tensors whose rounding makes most of the noise in the logits."""
    parts = []
    for name, noise in details.noise.items():
        most = max(pct for _, pct in noise.shares) or 1.0
        body = [
            element(
                "tr",
                element("td", element("bdi", tensor)),
                element("td", share_mark([("int8", 100 * pct / most)]), class_="chart"),
                element("td", f"{pct:.2f} %"),
            )
            for tensor, pct in noise.shares
        ]
        by = f", by the sidecar of {noise.source}" if noise.source else ""
        summary = join([element("bdi", name), f": {len(noise.shares)} of {noise.n}{by}"])
        rows = element("div", element("table", *body, class_="rows"), class_="scroll")
        parts.append(folded(summary, rows, opened=len(details.noise) <= OPENED))
    note = "Share of the noise in the logits that each tensor makes when it alone is quantized; the largest first."
    return section("Layers that lost it", element("p", note, class_="note"), *parts) if parts else Html()


def serving_section(results: RunReport, details: RunDetails) -> Html:
    """What the serving side must do to a picture, and what another geometry costs."""
    parts = []
    if details.preprocessing:
        contract = details.contract
        takes, gives = SERVED[contract.input], GIVEN[contract.output]
        parts.append(bullets([*_steps(details.preprocessing), f"the engine takes {takes}, and gives {gives}"]))
    rows = []
    for m in results.measurements:
        loss = m.accuracy.serving if m.accuracy else None
        if loss and loss.serving_drop_pp is not None and loss.serving_drop_ci_pp is not None:
            low, high = loss.serving_drop_ci_pp
            drop = f"{loss.serving_drop_pp:.2f} [{low:.2f}, {high:.2f}]"
            rows.append((element("bdi", m.name), loss.serving_geometry, drop, f"{loss.serving_agreement_pct:.2f}"))
        elif loss:
            rows.append((element("bdi", m.name), loss.serving_geometry, "-", f"{loss.serving_agreement_pct:.2f}"))
    parts.append(table(["engine", "geometry", "lost by it, pp [95 %]", "agreement, %"], rows))
    return section("Serving", *parts)


def _steps(found: Preprocessing) -> list[str]:
    height, width = found.size
    size = f"{width} x {height} pixels (width x height)"
    resize = f"the whole picture to {size}" if found.squash else f"the short side to {found.resize} pixels"
    crop = [] if found.squash else [f"cut {size} out of the center"]
    channels = {1: "gray", 4: "RGBA"}.get(found.channels, "BGR" if found.bgr else "RGB")
    turned = "turned upright by their EXIF orientation" if found.exif_orientation else "as they are stored"
    numbers = f"mean {_numbers(found.mean)}, deviation {_numbers(found.std)}"
    return [
        f"read pictures {turned}, as {channels}",
        f"resize {resize}, {found.interpolation} with antialiasing",
        *crop,
        f"scale to 0 to 1 and normalize: {numbers}",
    ]


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values)

"""`edgecnn summary`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecnn.cli.options import JSON, MODEL
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import print_line, print_text

EXAMPLES = """
edgecnn summary lenet5
edgecnn summary mobilenet_v2 --classes 37 --size 160 --json
"""


def summary(
    model: Annotated[str, MODEL],
    classes: Annotated[
        int | None, typer.Option(min=1, max=1 << 20, help="Number of classes.  [default: the zoo's]")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Input height and width, pixels.  [default: the network's]")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Print a network layer by layer.

    For one image: shapes, parameters, multiply-adds, activation memory.
    """
    from edgecnn.zoo import check_size, find_model

    card = find_model(model)
    if size is not None:
        check_size(card, size, size)
    from edgecnn.pytorch.summary import summarize
    from edgecnn.records import to_plain

    found = summarize(card.name, classes, size)
    content = to_plain(found)
    if as_json:
        print_json(content)
        return
    columns = ["name", "type", "output_shape", "receptive_field", "params", "weights", "macs", "activation_bytes"]
    totals = {"name": "total", **{c: content[c] for c in columns[4:]}}
    print_rows([*content["layers"], totals], columns)
    if found.auxiliary:
        print_line()
        print_line("in training only, and in no total:")
        print_rows(content["auxiliary"], ["name", "type", "params", "weights"])
    print_line()
    print_line("features (export --features):")
    print_rows(content["features"], ["name", "layer", "shape", "stride", "receptive_field"])
    print_line()
    print_text(f"stages, first to last: {' '.join(found.stages)}; head: {' '.join(found.head)}")
    print_text(
        f"{found.name} for {'x'.join(map(str, found.input_shape))} and {found.classes} classes: "
        f"{found.weight_layers} weight layers deep, {found.params / 1e6:.2f} M parameters, "
        f"{found.macs / 1e6:.1f} M multiply-adds, {found.params * 4 / 1e6:.1f} MB of weights and "
        f"{found.activation_bytes / 1e6:.1f} MB of activations in float32, of which at most "
        f"{found.peak_activation_bytes / 1e6:.1f} MB are needed at once"
    )

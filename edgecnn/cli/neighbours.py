"""`edgecnn neighbours`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import print_line, print_text, say

EXAMPLES = """
edgecnn neighbours imgs.features.npz cat/12.jpg -k 6  # needs features
edgecnn neighbours imgs.features.npz cat/12.jpg -o near.html  # needs features
"""
SHOWN = 20  # rows of each list; --json has all


def neighbours(
    index: Annotated[Path, typer.Argument(help="The vectors that `edgecnn features` wrote.")],
    image: Annotated[str, typer.Argument(help="An image of it, as CLASS/FILE, or the file.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 6,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write a page with the pictures: X.html.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show the training images that resemble an image most.

    Also near-duplicates between training and test images, and images whose neighbors bear another label.
    """
    from edgecnn.artifact.write import check_output, write_bytes
    from edgecnn.inspection.neighbours import neighbours as find_neighbours
    from edgecnn.records import to_plain
    from edgecnn.report.neighbours_page import neighbours_page, read_thumbnails

    if output is not None:
        check_output(output, ".html", index)
    found = find_neighbours(index, image, k)
    if output is not None:
        write_bytes(output, neighbours_page(found, read_thumbnails(index, found)).encode())
        say(f"{output}: written")
    content = to_plain(found)
    if as_json:
        print_json(content)
        return
    print_line(f"nearest to {found.image} ({found.split} {found.label_name}):")
    print_rows(content["nearest"], ["image", "label_name", "cosine"])
    print_line()
    if not found.near_checked:
        print_text("strangers among the training images are as alike as near-duplicates: only same files are told")
    print_text(
        f"{len(found.near_duplicates)} near-duplicates between {found.n_train} training and {found.n_test} test images"
    )
    print_rows(content["near_duplicates"][:SHOWN], ["train_image", "test_image", "cosine", "same_file"])
    print_text(f"{len(found.disagreements)} images whose neighbors disagree with their label")
    print_rows(
        content["disagreements"][:SHOWN], ["image", "split", "label_name", "neighbours_label_name", "votes", "k"]
    )

"""The page of neighbors: names in it stay text, and nothing is fetched."""

from __future__ import annotations

import re

from lxml import html as lxml_html

from edgecnn.report.neighbours_page import SHOWN, Thumbnails, neighbours_page
from edgecnn.results.neighbours import Disagreement, NearDuplicate, Neighbour, Neighbours

NAME = "a/\x1b[2J\u202e<script>x</script>&\"'><img src=http://x>.png"


def test_names_are_text_and_long_lists_are_cut() -> None:
    found = Neighbours(
        image=NAME, split="train", label_name=NAME, n_train=90, n_test=50,
        nearest=(Neighbour(NAME, "train", NAME, 0.5),),
        near_duplicates=(NearDuplicate(NAME, NAME, 1.0, True),) * (SHOWN + 1), near_checked=True,
        disagreements=(Disagreement(NAME, "test", NAME, NAME, 3, 4),),
    )  # fmt: skip
    text = neighbours_page(found, Thumbnails({("train", NAME): ("data:image/png;base64,AA==", True)}, NAME))
    assert not {"\x1b", "\u202e"} & set(text)
    page = lxml_html.fromstring(text)
    assert page.findall(".//script") == page.findall(".//a") == []
    sources = {image.get("src") for image in page.iter("img")}
    assert sources == {"data:image/png;base64,AA=="}
    assert len(page.findall(".//figure")) == 2 + 2 * SHOWN + 1
    assert f"37 near-duplicates between 90 training and 50 test images, of which {SHOWN} are shown" in text
    (policy,) = (meta.get("content") for meta in page.iter("meta") if meta.get("http-equiv"))
    assert "default-src 'none'; img-src data:" in str(policy)
    assert not re.search(r"https?://(?!x)", text)

"""What a recipe of an embedding contradicts."""

from __future__ import annotations

import pytest

from edgecnn.errors import RecipeError
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.rules import require_classifier


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=0", "train.loss = 'triplet' needs train.epochs"),
        ("train.batch=60", "train.batch = 60 is no number of classes"),
        ("train.batch=16", "train.batch = 16 is no number of classes"),
        ("train.mixup=0.2", "train.mixup is a classifier's"),
        ("qat.epochs=1", "qat.epochs is a classifier's"),
        ("export.output=probabilities", "export is a classifier's"),
        ("decision.threshold=0.5", "decision.threshold is a classifier's"),
        ("tolerances.top1_drop_pp_max=1", "tolerances.top1_drop_pp_max is a classifier's"),
        ('verification.test_classes=["1","1"]', "'1' stands there more than once"),
        ('verification.test_classes=["1","3"]', "'3' is one of the validation classes too"),
        ("verification.test_classes=[]", "verification.test_classes"),
        ("verification.embedding=65537", "verification.embedding = 65537: must be at most 65536"),
        ("verification.images_per_class=1", "verification.images_per_class"),
    ],
)
def test_what_an_embedding_cannot_have_is_named(override: str, said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("lenet5-digits-verify", [override])
    assert said in refused.value.message


@pytest.mark.parametrize("override", ["verification.embedding=8", "tolerances.embedding_cosine_min=0.9"])
def test_a_classifier_has_no_embedding(override: str) -> None:
    with pytest.raises(RecipeError, match="needs train.loss"):
        load_recipe("lenet5-digits", [override])


def test_what_is_of_classifiers_says_so() -> None:
    require_classifier(load_recipe("lenet5-digits"), "a bundle")
    with pytest.raises(RecipeError, match="an embedding network; a bundle is of classifiers"):
        require_classifier(load_recipe("lenet5-digits-verify"), "a bundle")
    assert load_recipe("lenet5-digits-verify", ["tolerances.decision_flips_pct_max=1"])

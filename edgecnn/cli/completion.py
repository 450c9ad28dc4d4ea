"""What a shell completes: names of recipes, networks, families and targets that begin as the word typed does."""

from __future__ import annotations

from collections.abc import Iterable


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes, those of ./recipes first."""
    from edgecnn.recipe.load import list_recipes

    return _beginning(incomplete, list_recipes())


def complete_model(incomplete: str) -> list[str]:
    """Networks of the zoo."""
    from edgecnn.zoo import cards

    return _beginning(incomplete, cards())


def complete_family(incomplete: str) -> list[str]:
    """Families of the zoo."""
    from edgecnn.zoo import cards

    return _beginning(incomplete, sorted({card.family for card in cards().values()}))


def complete_target(incomplete: str) -> list[str]:
    """Targets that can be built for."""
    from edgecnn.targets import targets

    return _beginning(incomplete, (name for name, target in targets().items() if not target.unsupported))


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]

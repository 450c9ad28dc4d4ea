"""Recipes: the TOML that says everything about one deployment."""

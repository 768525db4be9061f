"""Recipes: TOML files in layers, resolved into complete tables of validated options.

Nothing in this package imports torch or pydantic, so that a recipe's text is checked before they are there.
"""

from toolkit.recipe.layers import Layer, Layers, flag_layer, read_layers
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.resolution import read_data, read_recipe, resolve
from toolkit.recipe.sections import PROTOCOL, SECTIONS, Section
from toolkit.recipe.writer import write_toml

__all__ = [
    "PROTOCOL", "SECTIONS", "Layer", "Layers", "Recipe", "Section", "flag_layer", "read_data", "read_layers",
    "read_recipe", "resolve", "write_toml",
]  # fmt: skip

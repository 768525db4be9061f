"""Recipes: TOML files in layers, resolved into complete tables of validated options.

Nothing in this package imports torch or pydantic, so that a recipe's text is checked before they are there.
"""

from toolkit.recipe.layers import Layers, read_layers
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.resolution import read_data, read_recipe, resolve
from toolkit.recipe.sections import SECTIONS, Section

__all__ = ["SECTIONS", "Layers", "Recipe", "Section", "read_data", "read_layers", "read_recipe", "resolve"]

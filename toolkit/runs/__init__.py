"""Run folders: their layout, writing them and reading them."""

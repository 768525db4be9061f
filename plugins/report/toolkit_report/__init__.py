"""Runs side by side: `toolkit compare`, `toolkit report` and `toolkit cost`."""

"""Trained networks for programs without this toolkit, or without Python: `toolkit export`."""

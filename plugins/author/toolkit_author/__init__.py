"""For authors of plugins: `toolkit plugin new`, `toolkit plugin test` and `toolkit plugins doctor`."""

"""Plugins and their components: discovery, loading, signatures, and building them from tables."""

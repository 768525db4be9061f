"""Trained models: sampling from them, and their folders."""

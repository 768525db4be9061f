"""Averages of a network's weights after the fact: `toolkit ema`."""

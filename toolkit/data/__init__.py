"""Examples as a pure function of their position."""

"""Where a run computes: its processes and their launcher, and how networks use a device."""

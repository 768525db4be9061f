"""Pages of the site that are not written by hand: the reference, and what lies elsewhere in the repository.

conf.py writes them before the site is built; nothing of it is committed.
"""

"""A whole recipe: which steps, in what order, and why.

`tasks.py` says which files are made from which, `staleness.py` which of them are stale and why, `preflight.py` what can
be checked before anything runs, `run.py` runs a recipe, `find.py` finds what a run has measured.
"""

"""The steps of a run, one a file, as run.py calls them; and what commands do before training and after a run."""

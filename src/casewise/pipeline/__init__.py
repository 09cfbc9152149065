"""The steps that run.py names."""

"""casewise: honest image models for clinical studies, from a study file and a table of images."""

__version__ = "0.1.0"

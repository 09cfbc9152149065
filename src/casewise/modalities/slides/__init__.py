"""Whole-slide images: reading, tissue, and tiles."""

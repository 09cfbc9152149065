"""The image store: every image decoded once into one memory-mapped array."""

"""Saliency maps of a finished run: computed, mapped back to the original images, shown, and measured against masks."""

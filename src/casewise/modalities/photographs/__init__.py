"""Photographs as a modality, and the plan of their tiles."""

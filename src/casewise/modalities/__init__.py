"""Photographs, slides and volumes: what a network sees of a case."""

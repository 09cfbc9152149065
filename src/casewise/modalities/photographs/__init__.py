"""Photographs: reading image files of every format."""

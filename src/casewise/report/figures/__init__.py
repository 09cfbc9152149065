"""Figures as inline SVG, drawn with matplotlib or by hand."""

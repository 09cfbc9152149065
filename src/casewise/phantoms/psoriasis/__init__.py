"""Photographs of synthetic psoriasis under treatment, with grades at every visit."""

from casewise.phantoms.psoriasis.cohort import draw_photograph, make_psoriasis

__all__ = ["draw_photograph", "make_psoriasis"]

"""Photographs of synthetic psoriasis under treatment, with grades at every visit."""

from casewise.plugins.phantoms.psoriasis.cohort import PsoriasisSettings, draw_photograph, make_psoriasis

__all__ = ["PsoriasisSettings", "draw_photograph", "make_psoriasis"]

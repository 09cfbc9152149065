"""Synthetic skin biopsies, as pyramidal slides or as regions of interest."""

from casewise.plugins.phantoms.slides.cohort import (
    RegionSettings,
    SkinSettings,
    draw_region,
    make_regions,
    make_slide_phantom,
)
from casewise.plugins.phantoms.slides.skin import STAGES

__all__ = ["STAGES", "RegionSettings", "SkinSettings", "draw_region", "make_regions", "make_slide_phantom"]

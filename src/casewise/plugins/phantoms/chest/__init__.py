"""Synthetic chest radiographs with signs inside the lungs, and shortcuts only where they are requested."""

from casewise.plugins.phantoms.chest.cohort import ChestSettings, draw_film, make_chest
from casewise.plugins.phantoms.chest.film import FINDINGS, Film
from casewise.plugins.phantoms.chest.twins import TWIN_KINDS, plant_twins

__all__ = ["FINDINGS", "TWIN_KINDS", "ChestSettings", "Film", "draw_film", "make_chest", "plant_twins"]

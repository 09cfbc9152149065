"""Synthetic T1 and T2 volumes of the abdomen, with cysts of the pancreas by grade."""

from casewise.plugins.phantoms.pancreas.anatomy import GRADES
from casewise.plugins.phantoms.pancreas.cohort import MACHINES, SEQUENCES, PancreasSettings, make_pancreas

__all__ = ["GRADES", "MACHINES", "SEQUENCES", "PancreasSettings", "make_pancreas"]

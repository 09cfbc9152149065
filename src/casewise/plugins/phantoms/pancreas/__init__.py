"""Synthetic T1 and T2 volumes of the abdomen, with cysts of the pancreas by grade."""

from casewise.plugins.phantoms.pancreas.anatomy import GRADES
from casewise.plugins.phantoms.pancreas.cohort import PancreasSettings, make_pancreas
from casewise.plugins.phantoms.pancreas.scan import MACHINES, SEQUENCES

__all__ = ["GRADES", "MACHINES", "SEQUENCES", "PancreasSettings", "make_pancreas"]

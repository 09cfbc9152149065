"""The start of a study: from a preset, or from the table and the images that people have."""

from casewise.initialise.new_study import NewStudy
from casewise.initialise.own_data import plan_study
from casewise.initialise.preset import plan_preset

__all__ = ["NewStudy", "plan_preset", "plan_study"]

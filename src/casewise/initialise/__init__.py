"""The start of a study: from a preset, or from the table and the images that people have."""

from casewise.initialise.own_data import NewStudy, plan_study
from casewise.initialise.preset import Initialised, initialise

__all__ = ["Initialised", "NewStudy", "initialise", "plan_study"]

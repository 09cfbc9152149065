"""How good the predictions are: metrics, intervals by subject, agreement, response over time."""

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import FollowUp, Outcomes, evaluate

__all__ = ["FollowUp", "Outcomes", "Plan", "evaluate"]

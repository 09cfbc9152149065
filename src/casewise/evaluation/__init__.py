"""How good the predictions are: metrics, intervals by subject, agreement, response over time."""

from casewise.evaluation.results import evaluate

__all__ = ["evaluate"]

"""How good the predictions are: metrics, intervals by subject, agreement, response over time."""

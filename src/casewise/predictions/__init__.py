"""The predictions table, and what is computed from it: scores, stacking, nested cross-validation."""

"""Synthetic cohorts with known truth, marked as such in every file they write."""

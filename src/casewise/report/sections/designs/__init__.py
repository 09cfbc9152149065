"""Sections that some designs have: another cohort, covariates, arms, nested cross-validation."""

"""Splits by subject: grouped, predefined, inner folds, and the manifest."""

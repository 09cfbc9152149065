"""Work with a finished run in Python: tables, figures, comparisons, explanations and predictions."""

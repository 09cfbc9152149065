"""What a person does with a finished run in Python: tables, figures, comparisons, explanations and predictions."""

"""Trained networks outside the run that made them: a bundle holds weights and facts, a predictor applies them."""

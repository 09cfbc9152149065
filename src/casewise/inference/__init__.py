"""Trained networks outside the run that made them: a bundle contains weights and facts, a predictor applies them."""

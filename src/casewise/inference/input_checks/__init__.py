"""Whether an image is like those of the training: what is measured, the limits, and the flags of new cases."""

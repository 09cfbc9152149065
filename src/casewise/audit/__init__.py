"""The audit before training: duplicates, leaks between the sides of a split, and shortcuts to the label."""

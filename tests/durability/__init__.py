"""Runs that are killed, or whose disk fails, at random moments: they continue to the same bits and lose nothing."""

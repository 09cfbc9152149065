"""Training one network: its loop, stages, rates and losses, features computed once, and the compute plan."""

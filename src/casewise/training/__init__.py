"""Training one network: data, the Lightning module, stopping and continuing, the choice of precision."""

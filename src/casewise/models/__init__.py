"""Networks: backbones, weights, heads. Nothing here is imported before a network is needed."""

"""Saliency methods: attention rollout for transformers, Grad-CAM for all other networks."""

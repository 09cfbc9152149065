"""Saliency methods: contributions of baselines, attention rollout of transformers, Grad-CAM of other networks."""

"""Saliency methods: contributions of linear models, attention rollout of transformers, Grad-CAM of other networks."""

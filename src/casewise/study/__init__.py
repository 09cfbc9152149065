"""The study file: schema by topic, loading, cross-checks and presets."""

"""Back ends that execute jobs."""

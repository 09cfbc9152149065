"""Studies that others extend: one YAML file each, their scores, and the results of their publications."""

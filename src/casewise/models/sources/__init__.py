"""Sources of backbones: a file for each library."""

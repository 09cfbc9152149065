"""Everything that not every study needs: one closed folder for each plugin, each with an object `plugin`."""

"""Where a network looked: maps of influence, carried back to the original pixels, shown, and measured."""

"""Jobs: a study becomes independent networks (backbone × fold), each resumable, run side by side."""

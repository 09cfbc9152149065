"""Jobs: a study becomes independent networks (backbone × fold), each resumable, run in parallel."""

"""The queue of studies: what is stored, and what must still be done with it."""

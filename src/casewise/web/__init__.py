"""Services on this computer: who may use them, what surrounds every request, how they run, and their databases."""

"""Servers on this computer: who may use them, what surrounds every request, and how they run."""

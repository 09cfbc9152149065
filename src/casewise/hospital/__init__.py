"""Predictions of new cases in formats that hospitals exchange; a format is one file, registered in `formats`."""

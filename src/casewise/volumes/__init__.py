"""Scans of the body: reading them, and bringing the sequences of a case onto one grid."""

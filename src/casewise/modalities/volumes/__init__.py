"""Volumes: reading scans and preparing slices on one grid."""

"""Tests of the benchmarks: what they count and write. No test asserts a time."""

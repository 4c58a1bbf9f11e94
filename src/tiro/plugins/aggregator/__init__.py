"""Tiro's aggregators for Karez; the file's name is the type."""

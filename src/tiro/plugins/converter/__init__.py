"""Tiro's converters for Karez; the file's name is the type."""

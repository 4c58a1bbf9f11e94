"""Tiro's dispatchers for Karez; the file's name is the type."""

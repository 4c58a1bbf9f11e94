"""Tiro's connectors for Karez; the file's name is the type."""

"""Plugins for other programs; the only room of tiro that imports karez."""

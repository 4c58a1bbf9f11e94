"""Built-in dispatchers, one a file."""

"""Built-in aggregators, one a file."""

"""Built-in converters, one a file."""

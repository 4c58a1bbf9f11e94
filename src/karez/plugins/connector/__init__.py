"""Built-in connectors, one a file."""

"""The HTTP servers: the mock's, and what all of them need to be started."""

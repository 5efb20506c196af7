"""Sources that answer over a network."""

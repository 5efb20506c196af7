"""The sphere: positions and distances, S2 cells, borders."""

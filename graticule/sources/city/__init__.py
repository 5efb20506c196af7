"""A synthetic city, drawn frame by frame: photos whose truth is known, with no network."""

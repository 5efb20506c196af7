"""What a model believes of a photo's place: a density on the sphere, fitted, with regions that hold what they say."""

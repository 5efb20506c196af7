"""From a recipe and photos to a bundle."""

"""From a bundle and photos to fixes."""

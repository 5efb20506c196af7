"""The service: a bundle behind HTTP."""

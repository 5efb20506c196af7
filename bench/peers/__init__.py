"""Imported models beside their own code, on random weights of the published shapes."""

"""Honest numbers: metrics, baselines, folds, leak tables, sweeps."""

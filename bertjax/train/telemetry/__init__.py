"""Metrics, trackers and profiles of a training run."""

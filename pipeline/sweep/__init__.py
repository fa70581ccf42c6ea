"""Sweeps: Ray Tune over any keys of a config; each trial is a training with its own output."""

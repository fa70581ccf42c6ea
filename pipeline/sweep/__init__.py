"""Sweeps: Ray Tune over any keys of a config, each trial a training of its own."""

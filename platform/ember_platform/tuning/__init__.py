"""Sweeps over the configuration of a stage: search spaces, trials, what they found, and the winner."""

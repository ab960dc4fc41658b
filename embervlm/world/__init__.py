"""EmberWorld: procedural scenes with ground truth, the embedded dataset."""

"""Drawing functions: each fills an empty figure from its data and a palette, and touches nothing else."""

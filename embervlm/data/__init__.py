"""The record schema, the processor, prompts, augmentation, and readers of real datasets."""

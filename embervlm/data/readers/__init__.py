"""Readers of datasets as they are published: each turns one format into records or named faults."""

"""A release in memory: its table, its pixels, and samples of them for training."""

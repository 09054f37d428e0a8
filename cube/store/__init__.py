"""The cube on disk: template, chunks, seal, and how it is resumed and opened."""

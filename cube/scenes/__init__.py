"""Which scenes make a cube: searched, chosen, explained, planned."""

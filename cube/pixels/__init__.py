"""Assets onto grids: the one room that reads pixels from a network."""

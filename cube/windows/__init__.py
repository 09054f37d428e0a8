"""Lattice, grids and windows: pure functions of coordinates and counts."""

"""The one door to a release that may be anybody's: its files, sums, tables, and what is wrong with them."""

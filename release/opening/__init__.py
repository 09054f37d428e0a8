"""Reading a release that may be anybody's: files, checksums, tables, limits and faults."""

"""The report of a release as a person reads it: what is in it, and why."""

"""The check of a release, for anyone who holds one."""

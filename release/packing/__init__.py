"""Writing a release: what it holds, its chips, its folder and zips, whole or in shards."""

"""What every phase runs on: folders and buckets, locks, engines, logs, progress, the command line."""

"""What every phase runs on: storage, locks, engines, logs, progress, the command line."""

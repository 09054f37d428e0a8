"""What differs between two releases: settings, chips and why, scenes, pixels; as data and page."""

"""What catalogs and loaders read of a release: STAC and Croissant."""

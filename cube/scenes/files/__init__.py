"""Catalogs that are files: STAC items as JSON, or as stac-geoparquet, searched in process."""

"""What building would take, before it is fetched: a table, a page, and features for a GIS."""

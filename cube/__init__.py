"""Phase one: from areas of interest to aligned, chunked Zarr cubes; and what all phases share."""

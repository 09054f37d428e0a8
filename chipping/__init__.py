"""Phase two: from sealed cubes to scored windows, chosen windows and written chips. No network, ever.

===============================  ============================================================================
:mod:`chipping.finished`            what a sealed cube says about itself, and its raw pixels
:mod:`chipping.scores`           the table of counts per window, kept per cube
:mod:`chipping.footprints`       chips on the globe, and which overlap across UTM zones
:mod:`chipping.choose`           from scores and thresholds to a verdict per window
:mod:`chipping.geotiff`          GeoTIFFs :mod:`chipping.thumbnails`       pictures
:mod:`chipping.export`           chosen windows become folders of files :mod:`chipping.records`
``chip_metadata.csv`` :mod:`chipping.chip`             the verb: all of it in a row
:mod:`chipping.sweep`            chips per class under a grid of settings; the estimate before a
build
===============================  ============================================================================
"""

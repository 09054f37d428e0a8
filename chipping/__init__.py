"""Phase two: from sealed cubes to scores, chosen windows and written chips; never a network.

Public are :func:`chipping.chip.chip` and :func:`chipping.sweep.sweep`; all else is private to the
project. The rooms:

=============================  ========================================================
:mod:`chipping.chip`           all of phase two in a row
:mod:`chipping.areas`          what workers do with one area
:mod:`chipping.rounds`         runs that share the areas
:mod:`chipping.finished`       which cubes are finished, and are what a config asks for
:mod:`chipping.scores`         the table of counts per window, kept per cube
:mod:`chipping.masks`          where pixels are valid, and where they are clear
:mod:`chipping.choose`         from scores and thresholds to a verdict per window
:mod:`chipping.export`         chosen windows become folders of files
:mod:`chipping.geotiff`        GeoTIFFs of chips
:mod:`chipping.thumbnails`     pictures of land cover and heights
:mod:`chipping.views`          how the scenes behind a chip were taken: sun, orbit, clouds
:mod:`chipping.records`        the tables of windows, and ``chip_metadata.csv``
:mod:`chipping.sweep`          chips per class under a grid of settings
:mod:`chipping.contact_sheet`  a few chips of every class on one picture
:mod:`chipping.commands`       the commands ``chip``, ``sweep`` and ``sheet``
=============================  ========================================================
"""

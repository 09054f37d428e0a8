"""Phase two: from finished cubes to scored and chosen windows, and to chips; without a network.

=============================  =====================================================
:mod:`chipping.chip`           the verb: all of it in a row
:mod:`chipping.finished`       which cubes are finished, and are what a config asks for
:mod:`chipping.masks`          which pixels are clear
:mod:`chipping.scores`         the table of counts per window, kept per cube
:mod:`chipping.choose`         from scores and thresholds to a verdict per window
:mod:`chipping.footprints`     chips on the globe, and which overlap across UTM zones
:mod:`chipping.export`         chosen windows become folders of files
:mod:`chipping.geotiff`        their GeoTIFFs
:mod:`chipping.thumbnails`     their pictures
:mod:`chipping.records`        ``chip_metadata.csv``
:mod:`chipping.sweep`          chips per class under a grid of settings
:mod:`chipping.contact_sheet`  a few chips of every class on one picture
=============================  =====================================================
"""

"""Phase one, from areas of interest to aligned, chunked Zarr cubes; and what all phases share.

Public are :func:`build_cubes`, :func:`load_config` and :func:`open_cube`; all else is private to
the project. The rooms, from the ground up, each of which imports only from those above it:

===================  ==============================================================================
``errors``           what a user can meet, each in one line
``certificates``     whom https trusts
``environment``      variables that other installations set as well, checked before any work
``redaction``        no signature or token in any text
``retry``            failures that pass, told from those that last, and how long to wait
``lots``             drawing by lot, seeded
``lazy_names``       public names that are imported when they are asked for
:mod:`cube.config`   a dataset version in one YAML file; sensors, catalog profiles, areas
:mod:`cube.run`      folders and buckets, locks, engines, logs, progress, the frame of a command
:mod:`cube.windows`  grids and the lattice of windows, as integers; windows counted from land cover
:mod:`cube.scenes`   from a STAC search to the plan of a cube: items, choice, reasons, cost
:mod:`cube.pixels`   reading: hrefs, signatures, source windows, onto the cube's grid
:mod:`cube.store`    cubes on disk: template, blocks, seal, and what opens them
:mod:`cube.doctor`   what a run needs, looked at one by one, each with its mend
:mod:`cube.build`    all of it in a row; the commands ``init``, ``plan``, ``build``, ...
:mod:`cube.testing`  the sample archive, and stand-ins for the services
===================  ==============================================================================
"""

from typing import TYPE_CHECKING

from .lazy_names import lazy_names

if TYPE_CHECKING:
    from .build.run import build_cubes
    from .config.reading import load_config
    from .store.open import open_cube

__all__ = ["build_cubes", "load_config", "open_cube"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"build_cubes": ".build.run", "load_config": ".config.reading", "open_cube": ".store.open"},
)

"""Results on disk: every finished cell is kept, written whole or not at all, with where it comes from.

A store is a folder:

    store.json      {"format": 1}
    lock            held by the one process that writes; its pid and host
    chunks/H.npz    some cells of one function: header.json, arrays, checksum; written once; H is a hash of the cells
    chunks/H.npz.bad    a chunk whose checksum did not match, set aside; its cells are computed again

What has another name (of an editor, a file manager, a file server) is not ours: it is neither read nor removed.

Nothing in it is ever executed: arrays are read without pickle, everything else is JSON. Any zip tool and `numpy.load`
open a chunk. In `sweep` a store decides nothing but which cells are already there:

    with lazyscope.Store("results/store") as store:
        ds = lazyscope.sweep(function, axes, key=key, seeds=10, store=store)
"""

from lazyscope.store.contents import Problem, Summary, check, export_cells, locate, status, write_csv, write_netcdf
from lazyscope.store.files import StoreError, export, named, write_atomic
from lazyscope.store.folder import Store
from lazyscope.store.keys import stored_as
from lazyscope.store.origin import provenance
from lazyscope.store.pruning import Unused, prune, unused

__all__ = [
    "Problem",
    "Store",
    "StoreError",
    "Summary",
    "Unused",
    "check",
    "export",
    "export_cells",
    "locate",
    "named",
    "provenance",
    "prune",
    "status",
    "stored_as",
    "unused",
    "write_atomic",
    "write_csv",
    "write_netcdf",
]

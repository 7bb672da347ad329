"""Patch sets: patches with the identity of the 3-D point that each shows, whatever they were read from.

Example:
    >>> points = np.array([0, 0, 1, 1], np.int32)
    >>> patch_set = PatchSet("mine", np.zeros((4, 64, 64), np.uint8), points, np.zeros(4, np.int32), context=2.0)
    >>> len(read_arrays(write_arrays("patches", patch_set)))
    4
"""

from hardnet.patchsets.arrays import PatchSet, digest, read_arrays, write_arrays
from hardnet.patchsets.shards import read_set
from hardnet.patchsets.stacked import Stacked

__all__ = ["PatchSet", "Stacked", "digest", "read_arrays", "read_set", "write_arrays"]

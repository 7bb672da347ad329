"""Patch sets: patches with the identity of the 3-D point that each shows, whatever they were read from."""

from hardnet.patchsets.arrays import PatchSet, digest, read_arrays, write_arrays

__all__ = ["PatchSet", "digest", "read_arrays", "write_arrays"]

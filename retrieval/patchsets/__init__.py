"""Photographs to training patches for `hardnet`."""

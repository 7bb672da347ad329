"""Photographs: which files there are, and from their bytes to pixels, with damage told instead of shown as grey."""

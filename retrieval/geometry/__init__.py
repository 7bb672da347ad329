"""Geometry between photographs: putative pairs and the transforms that explain them."""

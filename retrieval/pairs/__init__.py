"""Pairs: which photographs of a collection show the same, without reading them again, and the groups they form."""

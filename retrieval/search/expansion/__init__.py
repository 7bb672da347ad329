"""Query expansion: what the expanded query is. It does not search."""

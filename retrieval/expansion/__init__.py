"""Query expansion: what verified results add to a query."""

"""A search page and an HTTP API on one index; needs the extra ``web``."""

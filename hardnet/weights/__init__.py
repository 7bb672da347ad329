"""Weights: the table of named ones, fetching them, and files to tensors."""

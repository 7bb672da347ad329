"""Benchmarks: their photographs, ground truth, protocols and downloads, and the generated demo set."""

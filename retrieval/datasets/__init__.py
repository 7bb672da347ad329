"""Photographs and ground truth: folders, benchmarks, downloads, and the generated demo set."""

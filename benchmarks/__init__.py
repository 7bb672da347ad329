"""Speed, memory and quality against real peers; see benchmarks/README.md for the method."""

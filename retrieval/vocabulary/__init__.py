"""Visual words: training, nearest-word search, storage."""

"""The index: immutable segments, tf-idf scores, and the folder that holds them."""

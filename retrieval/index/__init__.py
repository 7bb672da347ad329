"""The index: segments that never change, their scores, and every change of the folder that holds them."""

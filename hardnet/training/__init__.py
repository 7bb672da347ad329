"""Training: a recipe, pairs drawn from patch sets, views drawn anew, the hardest negatives of a batch."""

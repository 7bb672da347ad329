"""Evaluation: measures, the rows of the table, whole benchmark runs, and what they will take."""

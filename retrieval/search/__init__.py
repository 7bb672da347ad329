"""Search: from a query to ranked photographs; shortlist, verification, expansion, and what a score is made of."""

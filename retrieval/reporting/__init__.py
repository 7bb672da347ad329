"""What a run or a search leaves to look at: tables, figures, ``report.html``."""

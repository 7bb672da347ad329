"""Running: work over processes that may die, and what Ctrl-C and SIGTERM do."""

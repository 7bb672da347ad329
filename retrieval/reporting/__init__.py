"""What a run leaves to read: tables, with the published figures beside them."""

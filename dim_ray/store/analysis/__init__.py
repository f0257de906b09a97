"""Questions to the rows."""

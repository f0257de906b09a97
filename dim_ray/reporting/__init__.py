"""The report: rows as figures, tables and one HTML page."""

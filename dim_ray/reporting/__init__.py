"""The report: rows to tables and figures, and these to one HTML page. `python -m dim_ray.report` is its entry."""

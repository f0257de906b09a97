"""Questions about rows: the best generator, Pareto sets, DD-Ranking's scores."""

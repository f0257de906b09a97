"""Run SQL over tables in memory with duckdb: pip install 'dim-ray[sql]'.

query("select count(*) as n from evaluations", {"evaluations": table})
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pyarrow as pa

from dim_ray.errors import UsageError

__all__ = ["query"]


def query(text: str, tables: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Return the result of a query in duckdb's dialect, of tables by name.

    Raises:
        UsageError: duckdb isn't installed, or can't run the query.
    """
    try:
        import duckdb
    except ImportError as error:
        raise UsageError(
            "SQL needs duckdb, which isn't installed: pip install 'dim-ray[sql]'. pandas reads the same rows: "
            "dim_ray.open_store(root).evaluations()."
        ) from error
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        try:
            answer = connection.sql(text)
            if answer is None:
                raise UsageError(f"the SQL {text!r} asks for no rows; write a select.")
            frame: pd.DataFrame = answer.to_arrow_table().to_pandas()
        except duckdb.Error as error:
            raise UsageError(f"the SQL can't be answered: {error}") from error
    return frame

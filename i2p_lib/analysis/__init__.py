"""Analysis: pure functions on arrays, tables and networks."""

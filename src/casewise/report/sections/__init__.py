"""The content of each section of the report as plain values: codes, numbers, tables and figures."""

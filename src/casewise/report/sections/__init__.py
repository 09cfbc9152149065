"""What each section of the report shows, as plain values: codes, numbers, tables, figures; templates speak."""

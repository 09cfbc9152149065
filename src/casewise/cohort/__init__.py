"""The cohort: table, cases, labels, checks, and tables made from folders."""

"""Rows of a table joined to the images whose paths state their subject, visit or date, region and number."""

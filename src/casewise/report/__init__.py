"""The report: one self-contained HTML page for the clinician first and the data scientist next."""

"""A trained model as a local web service: a JSON interface, and one page for a browser."""

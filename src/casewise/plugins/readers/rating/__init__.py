"""Reading cases in the browser: sessions and their orders, the store of entries, the page and its server, labels."""

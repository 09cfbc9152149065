"""Result pages in Markdown."""

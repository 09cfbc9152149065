"""Agreement of readers with each other and with a model: coefficients, comparisons, and the page that shows them."""

"""Training networks of signals: the recipe's sections, what learns, and its task."""

"""Training networks of signals: what learns, its task, and how a run begins."""

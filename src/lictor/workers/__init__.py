"""Who does work that has many items: this process, several, or a cluster that Ray knows."""

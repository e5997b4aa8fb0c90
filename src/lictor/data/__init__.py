"""Pictures in, training crops out."""

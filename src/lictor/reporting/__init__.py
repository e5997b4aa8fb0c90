"""Pages and charts of what was measured."""

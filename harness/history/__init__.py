"""What recorded runs were, night after night: rows of figures in one file, and where they changed."""

"""A night: every cell of a matrix, unattended, on a machine that fails. ``runner.run_night`` is its one way in."""

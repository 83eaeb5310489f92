"""The commands of ``harness``, one file a subject; ``harness.cli`` names them all."""

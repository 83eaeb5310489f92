"""Names of the messages between coordinator and workers, sent as Locust's own custom messages."""

CELL = "harness_cell"
"""Coordinator to workers: the cell to run, as JSON."""
CERTIFY = "harness_certify"
"""Leader to workers, before the cell: rehearse it in this shape against a null server."""
REHEARSED = "harness_rehearsed"
"""Worker to leader: one Arrow batch of a rehearsal, shipped as ``SAMPLES`` are."""
CERTIFIED = "harness_certified"
"""Worker to leader: its certificate, as JSON."""
HELLO = "harness_hello"
"""Worker to coordinator: who it is and its clock anchor."""
SAMPLES = "harness_samples"
"""Worker to coordinator: one Arrow batch, and some answers' texts."""
START = "harness_start"
"""Coordinator to workers: all users are up, the run clock starts.

``zeros`` holds its zero on the monotonic clock of each worker, ``(worker, seconds)`` in the order of the open loop's
shares.
"""
SURVEY = "harness_survey"
"""Coordinator to workers: ship what you have and say what is in flight."""
SURVEY_REPLY = "harness_survey_reply"
STOP = "harness_stop"
"""Coordinator to workers: stop issuing, drain, ship, report the end."""
END = "harness_end"
"""Worker to coordinator: the last message, with the number of samples sent."""

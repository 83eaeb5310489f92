"""The process that watches a run from beside the load: it shows where the run is, and decides when it may end.

It reads what the load writes, and never stands in its way: it runs at low priority, holds at most
:data:`harness.watch.samples.MOST_SAMPLES` samples, and its death costs a view, or a run that goes on to its end.
"""

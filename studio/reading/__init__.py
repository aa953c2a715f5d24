"""Reading files that others wrote: one careful way for each kind, with errors that say what to do.

Whatever reads a file goes through here, so that three things hold of every reader: it ends (pipes and devices are
refused, nesting is bounded), it raises nothing but a `StudioError` of one line, and a header that promises more than
its file can hold makes it allocate no more than `studio.reading.limits` says. Imports no torch.
"""

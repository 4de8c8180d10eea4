"""Standard workloads of the whole-book kernel, timed on the machine at hand, beside anyone else's kernel."""

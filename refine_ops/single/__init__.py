"""One picture in one call: the chain of a run in this process, without manifest, run folder or process group."""

"""The same steps in another process: an engine is native code, which may take its process down.

`worker.py` is that process, `child.py` starts it and speaks to it, `engines.py` runs a step there or here, and
`qualify.py` compares two Python environments, each in a process of its own.
"""

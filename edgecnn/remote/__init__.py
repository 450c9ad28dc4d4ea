"""The same steps in another process: an engine is native code, which may take its process down.

`worker.py` is that process, `child.py` starts it and speaks to it, `engines.py` runs a step there or here, and
`qualify.py` compares two Python environments, each in a process of its own.
Another machine is reached over ssh: `ssh.py` calls there what `agent.py` says, `setup.py` puts this package there,
`job.py` runs a command and brings back what it made, `command.py` that of one step, `lanes.py` drives several machines.
"""

"""What a machine over ssh is, and by which ways it runs an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgecnn.records import mapping_from_json
from edgecnn.remote.job import Job, run_job
from edgecnn.remote.setup import Facts, Say
from edgecnn.remote.ssh import Connection
from edgecnn.remote.ssh_errors import SET_UP, NotSetUpError

Ways = Sequence[Mapping[str, Any]]


def doctor_host(host: str, say: Say = lambda line: None) -> tuple[Facts, Ways]:
    """What a machine is, has and was set up for, and each way to run an engine as `edgecnn doctor` tried it there; none
    where it was not set up. Raises `RemoteError` where it is not reached, or edgecnn does not run there."""
    with Connection(host, SET_UP) as connection:
        try:
            facts = connection.hello()
            done = run_job(connection, Job("doctor", ("doctor", "--json"), {}), say)
            return facts, mapping_from_json(done.out, host, "report it")["ways"]
        except NotSetUpError:
            pass
    with Connection(host) as connection:
        return connection.hello(), ()

"""Errors as users and other processes see them."""

from __future__ import annotations

import pickle

import pytest

from edgecnn import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.GraphError("node 'a': broken", "mend it"),
        errors.WriteError("no room", "make some"),
        errors.MissingPackageError("onnx", "exporting", "cpu"),
    ],
)
def test_an_error_survives_the_way_from_a_worker_process(error: errors.EdgecnnError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.hint, str(copy)) == (error.message, error.hint, str(error))
    assert copy.exit_code == 2

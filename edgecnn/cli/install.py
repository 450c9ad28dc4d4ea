"""`edgecnn install`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import ALLOWED, INSTALLED_IN, JSON, REQUIRE_SIGNATURE, THREADS
from edgecnn.cli.printing import print_json
from edgecnn.output import print_text, say

EXAMPLES = """
edgecnn install lenet5.tar --require-signature --allowed-signers signers  # needs a release
edgecnn install lenet5.tar --to deployed/lenet5  # needs a release
"""


def install(
    archive: Annotated[Path, typer.Argument(help="A release: the .tar of `edgecnn release`.", metavar="FILE.tar")],
    to: Annotated[Path | None, INSTALLED_IN] = None,
    threads: Annotated[int | None, THREADS] = None,
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Test a release on this device, and let it serve.

    The tar is verified: hashes, signature, device. The engine is run on the golden images; then `current` in the folder
    leads to it, and what served before is kept for `edgecnn rollback`.

    Exit code 0: it serves, 1: it failed its test, and what served before serves on.
    """
    from edgecnn.pipeline.install import install as put
    from edgecnn.records import to_plain

    done = put(archive, to, threads=threads, say=say)
    installed, test = done.installed, done.installed.self_test
    failed = installed.verdict == "FAIL"
    if as_json:
        print_json(to_plain(done))
    elif failed:
        print_text(f"FAIL {archive}: {'; '.join(test.failures())}")
        serves = Path(done.path).parent.is_symlink()
        say(f"{archive}: {'what served before serves on' if serves else 'nothing is installed'}")
    else:
        sqnr = f", SQNR {test.sqnr_db:.1f} dB" if test.sqnr_db is not None else ""
        by = f", signed by {installed.signed_by}" if installed.signed_by else ""
        print_text(f"PASS {done.path}: {test.golden_images_n} of {test.golden_n} golden images{sqnr}")
        was = "serves now" if done.changed else "serves already"
        say(f"release {installed.release} {was}{by}")
    return 1 if failed else 0

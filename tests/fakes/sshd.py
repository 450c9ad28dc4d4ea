"""Devices behind ssh: a real OpenSSH server for each, on the loopback address, with keys and a home of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
CUTTING = """
import os, signal, subprocess, sys, threading
rule, server = open(sys.argv[1]).read().split(" ", 1), os.getppid()
def cut():
    os.unlink(sys.argv[1])
    os.kill(server, signal.SIGKILL)
    os._exit(1)
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
child = subprocess.Popen(["sh", "-c", os.environ["SSH_ORIGINAL_COMMAND"]], **pipes)
def feed():
    given = 0
    while chunk := os.read(0, 512):
        given += len(chunk)
        if rule[0] == "in" and given >= int(rule[1]):
            cut()
        child.stdin.write(chunk)
        child.stdin.flush()
    child.stdin.close()
threading.Thread(target=feed, daemon=True).start()
said = b""
while chunk := os.read(child.stdout.fileno(), 512):
    said += chunk
    if rule[0] == "out" and rule[1].encode() in said:
        cut()
    os.write(1, chunk)
os._exit(child.wait())
"""


class Device:
    """A machine called `name`, to which `ssh name` leads as long as `bin` is the first folder of the path."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.home = name, folder / name, folder / name / "home"
        self.home.mkdir(parents=True)
        self.port = free_port()
        for key in ("host", "user"):
            make_key(self.folder / key)
        shutil.copy(self.folder / "user.pub", self.folder / "authorized")
        (self.folder / "cutting.py").write_text(CUTTING)
        self._rule = self.folder / "cut"
        cutting = shlex.join([sys.executable, str(self.folder / "cutting.py"), str(self._rule)])
        (self.folder / "command").write_text(
            f'[ -e {self._rule} ] && exec {cutting}\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        (self.folder / "sshd.conf").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nStrictModes no\nPermitRootLogin yes\n"
            f"PasswordAuthentication yes\nKbdInteractiveAuthentication no\nSetEnv HOME={self.home}\n"
            f"ForceCommand sh {self.folder}/command\n"
        )
        self.start()

    def start(self) -> None:
        """Let it answer."""
        with (self.folder / "log").open("a") as log:
            self._server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(self.folder / "sshd.conf")], stderr=log)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Switch it off, with every connection to it."""
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self._server.pid)], capture_output=True, check=False)
        self._server.terminate()
        for pid in listed.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._server.wait()

    def cut_after(self, *, sent: int = 0, said: str = "") -> None:
        """Let the connection break once: after so many bytes from there, or when something is said here."""
        self._rule.write_text(f"in {sent}" if sent else f"out {said}")

    @property
    def was_cut(self) -> bool:
        """Whether the break has happened."""
        return not self._rule.exists()

    def change_host_key(self) -> None:
        """Be another machine, as far as ssh can tell."""
        self.stop()
        for path in self.folder.glob("host*"):
            path.unlink()
        make_key(self.folder / "host")
        self.start()

    def configuration(self) -> str:
        """Its part of an ssh configuration."""
        return (
            f"Host {self.name}\n HostName 127.0.0.1\n Port {self.port}\n IdentityFile {self.folder}/user\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {self.folder}/known\n StrictHostKeyChecking accept-new\n"
        )


def ssh_with(devices: list[Device], folder: Path) -> Path:
    """A folder with an `ssh` that knows the devices as a user's own configuration would."""
    (folder / "bin").mkdir()
    configuration = folder / "ssh.conf"
    configuration.write_text("".join(device.configuration() for device in devices))
    command = folder / "bin" / "ssh"
    command.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {configuration} "$@"\n')
    command.chmod(0o755)
    return command.parent


def why_no_sshd() -> str:
    """Why no server can be started here; "" where it can."""
    if not Path(SSHD).exists():
        return "OpenSSH's server is not installed (Debian: openssh-server)"
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as its service would
    return "" if shutil.which("ssh") and shutil.which("ssh-keygen") else "OpenSSH's client is not installed"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(path: Path) -> None:
    """An Ed25519 key without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def empty_wheels(folder: Path, names: list[str]) -> Path:
    """Wheels that bring no module: what they stand for is found in the interpreter's own packages."""
    import zipfile

    folder.mkdir()
    for name, version in (text.split("==") for text in names):
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
    return folder

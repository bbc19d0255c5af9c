# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion in the shells: what is offered is what the program and the daemon know."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

from harness import LIVESNAP, PATIENCE_S, find_one

# Bash splits the line into words at these, with each run of those that are no spaces as a word of its own.
ASK_BASH = r"""
source "$1"
COMP_LINE=$2 COMP_POINT=$3 COMP_WORDS=() rest=${2:0:$3}
compopt() { :; }
while [[ $rest =~ ^[[:space:]]*([^[:space:]\"\'@\>\<=\;\|\&\(:]+|[@=:]+)(.*)$ ]]; do
    COMP_WORDS+=("${BASH_REMATCH[1]}") rest=${BASH_REMATCH[2]}
done
[[ $rest != *[[:space:]] && ${COMP_LINE:0:COMP_POINT} != *[[:space:]] ]] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_livesnap
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def ask_bash(installed):
    script = find_one(installed, "bash-completion/completions/livesnap")

    def ask(line, socket="/nonexistent"):
        line = f"{LIVESNAP} {line}"
        asked = subprocess.run(["bash", "--norc", "-c", ASK_BASH, "bash", script, line, str(len(line))], check=True,
                               capture_output=True, text=True, timeout=PATIENCE_S,
                               env={**os.environ, "LIVESNAP_SOCKET": str(socket)})
        assert asked.stderr == ""
        return asked.stdout.split()

    return ask


def commands_in_help():
    shown = subprocess.run([LIVESNAP, "--help"], check=True, capture_output=True, text=True).stdout
    return re.findall(r"^  ([a-z]+) ", shown.partition("Commands:")[2].partition("\n\n")[0], re.MULTILINE)


def test_bash_commands(ask_bash):
    assert ask_bash("") == commands_in_help()
    assert ask_bash("ver") == ["verify"]
    assert ask_bash("--json ver") == ask_bash("--socket /x ver") == ask_bash("--socket=/x ver") == ["verify"]
    assert ask_bash("no-such-thing") == []


@pytest.mark.parametrize("command", commands_in_help())
def test_bash_options(ask_bash, command):
    shown = subprocess.run([LIVESNAP, command, "--help"], check=True, capture_output=True, text=True).stdout
    assert ask_bash(f"{command} --") == re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE)


def test_bash_values(ask_bash, tmp_path):
    assert ask_bash("attach --discard ") == ["fail", "zero"]
    assert ask_bash("attach --discard=z") == ["zero"]
    assert ask_bash("tracking d s") == ["sync"]
    assert str(os.getpid()) in ask_bash("attach --pid ")
    (tmp_path / "some-directory").mkdir()
    (tmp_path / "some-file").touch()
    assert ask_bash(f"restore d/s --output {tmp_path}/so") == [f"{tmp_path}/some-directory"]
    assert sorted(ask_bash(f"list --socket {tmp_path}/so")) == [f"{tmp_path}/some-directory", f"{tmp_path}/some-file"]
    assert ask_bash("snapshot d --name ") == []


def test_bash_names(ask_bash, lab):
    """Of domains, snapshots and regions, with the characters at which bash splits words."""
    writer = lab.start_writer(pages=16)
    lab.attach(writer, domain="vm:one@host")
    lab.attach(lab.start_writer(pages=16, seed=2), domain="db")
    for name in ("monday", "t:12@x"):
        lab.snapshot("vm:one@host", "--name", name)

    def ask(line):
        return sorted(ask_bash(line, lab.daemon.socket))

    assert ask("snapshot ") == ["db", "vm:one@host"]
    assert ask("snapshot v") == ["vm:one@host"]
    assert ask("snapshot vm:o") == ["one@host"]
    assert ask("snapshot vm:one@h") == ["@host"]
    assert ask("verify v") == ["vm:one@host/monday", "vm:one@host/t:12@x"]
    assert ask("verify vm:one@host/m") == ["@host/monday"]
    assert ask("verify vm:one@host/t:12@") == ["@x"]
    assert ask("snapshot vm:one@host --parent ") == ["monday", "t:12@x"]
    region, = lab.json("show", "vm:one@host/monday")["regions"]
    assert ask("restore vm:one@host/monday --region ") == [region["name"]]
    assert region["name"] in ask("detach vm:one@host --region ")
    assert ask_bash(f"--socket {lab.daemon.socket} snapshot d") == ["db"]


def test_bash_says_nothing_without_a_daemon(ask_bash):
    assert ask_bash("verify ") == ask_bash("snapshot ") == ask_bash("cancel ") == []


class Shell:
    """An interactive shell, with a command that makes Ctrl-T show what the line has become, and empty it."""

    def __init__(self, command, setup, socket):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, {**os.environ, "LIVESNAP_SOCKET": str(socket), "TERM": "dumb",
                                             "PATH": f"{LIVESNAP.parent}:{os.environ['PATH']}"})
        self.type(f"{setup}; echo rea''dy\n")
        self.read_until("ready")

    def type(self, text):
        os.write(self.terminal, text.encode())

    def read_until(self, pattern):
        said, deadline = "", time.monotonic() + PATIENCE_S
        while not re.search(pattern, said):
            assert select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))[0], said
            said += os.read(self.terminal, 4096).decode(errors="replace")
        return re.search(pattern, said)

    def complete(self, text):
        """What a line becomes with Tab."""
        self.type(f"{text}\t\x14")
        return self.read_until("<(.*)>")[1].strip()

    def close(self):
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


def test_bash_interactive(installed, lab):
    """With words as bash itself splits them, and what it does with the answer."""
    lab.attach(lab.start_writer(pages=16), domain="vm:one@host")
    lab.snapshot("vm:one@host", "--name", "t:12@x")
    script = find_one(installed, "bash-completion/completions/livesnap")
    show = r"""bind -x '"\C-t": echo "<$READLINE_LINE>"; READLINE_LINE='"""
    shell = Shell(["bash", "--norc", "-i"], f"source {script}; {show}", lab.daemon.socket)
    try:
        assert shell.complete("livesnap veri") == "livesnap verify"
        assert shell.complete("livesnap attach --discard=z") == "livesnap attach --discard=zero"
        assert shell.complete("livesnap snapshot vm:o") == "livesnap snapshot vm:one@host"
        assert shell.complete("livesnap verify v") == "livesnap verify vm:one@host/t:12@x"
        assert shell.complete("livesnap verify vm:one@host/t:") == "livesnap verify vm:one@host/t:12@x"
        assert shell.complete("livesnap verify vm:one@h") == "livesnap verify vm:one@host/t:12@x"
        assert shell.complete("livesnap verify vm:one@host/t:12@") == "livesnap verify vm:one@host/t:12@x"
        assert shell.complete("livesnap verify vm:one@") == "livesnap verify vm:one@host/t:12@x"
    finally:
        shell.close()


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not there")
def test_zsh(installed, lab):
    lab.attach(lab.start_writer(pages=16), domain="vm:one")
    lab.snapshot("vm:one", "--name", "monday")
    setup = (f"fpath=({find_one(installed, '_livesnap').parent} $fpath); autoload -U compinit && compinit -u -D; "
             'show() { print -r "<$BUFFER>"; BUFFER= }; zle -N show; bindkey ^T show; bindkey ^I complete-word')
    shell = Shell(["zsh", "-f", "-i"], setup, lab.daemon.socket)
    try:
        assert shell.complete("livesnap veri") == "livesnap verify"
        assert shell.complete("livesnap attach --disc") == "livesnap attach --discard"
        assert shell.complete("livesnap attach --discard z") == "livesnap attach --discard zero"
        assert shell.complete("livesnap attach --discard=z") == "livesnap attach --discard=zero"
        assert shell.complete("livesnap tracking vm:one o") == "livesnap tracking vm:one off"
        assert shell.complete("livesnap snapshot v") == r"livesnap snapshot vm:one"
        assert shell.complete("livesnap verify v") == "livesnap verify vm:one/monday"
        assert shell.complete("livesnap snapshot vm:one --parent m") == "livesnap snapshot vm:one --parent monday"
        assert shell.complete("livesnap restore vm:one/monday --region ora") != "livesnap restore vm:one/monday --region ora"
    finally:
        shell.close()

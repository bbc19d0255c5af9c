# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of hostile peers are made of: shared memory of a process's own, and acting as somebody else."""

import ctypes
import json
import mmap
import os
import select
import signal
import traceback

from harness import PATIENCE_S, Failure

# Two users with nothing in common. Nobody has to know them.
ALICE = 61001
BOB = 61002

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_USERFAULTFD = 323
USERFAULTFD_IOC_NEW = 0xAA00
UFFDIO_API = 0xC018AA3F
PR_SET_DUMPABLE = 4
PAGE = mmap.PAGESIZE


def userfaultfd(device=None):
    """A userfaultfd of this process, from the daemon's device where it may not make one itself."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    if device is None:
        fd = LIBC.syscall(SYS_USERFAULTFD, flags)
    else:
        fd = LIBC.ioctl(device, ctypes.c_ulong(USERFAULTFD_IOC_NEW), flags)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    return fd


class Memory:
    """A shared memory object and where it is mapped. Unmapped only with the process, or by unmap()."""

    def __init__(self, length=64 * PAGE, fd=None, name="hostile", mapped=True, writable=True):
        self.length = length
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, length)
        self.address = 0
        if mapped:
            self.address = self.map(writable)

    def map(self, writable=True, address=None, offset=0, length=None):
        LIBC.mmap.restype = ctypes.c_void_p
        LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                              ctypes.c_longlong]
        made = LIBC.mmap(address, length or self.length, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0),
                         mmap.MAP_SHARED, self.fd, offset)
        if made in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        return made

    def write(self, offset, data):
        ctypes.memmove(self.address + offset, data, len(data))

    def unmap(self):
        LIBC.munmap(ctypes.c_void_p(self.address), ctypes.c_size_t(self.length))

    def close(self):
        self.unmap()
        os.close(self.fd)

    def region(self, index, **members):
        return {"object": index, **members}

    def mapping(self, uffd, region=0, **members):
        return {"region": region, "userfaultfd": uffd, "address": self.address, "length": self.length, "offset": 0,
                **members}


def attach(connection, domain, memory, **members):
    """Attach one object of the calling process as it should be done; returns the reply."""
    reply = connection.call("io.livesnap.GetUserfaultfdDevice")
    if "error" in reply:
        return reply
    uffd = userfaultfd(connection.descriptors[-1])
    try:
        return connection.call("io.livesnap.Attach", {
            "domain": domain, "regions": [memory.region(0)], "mappings": [memory.mapping(1)], **members,
        }, [memory.fd, uffd])
    finally:
        os.close(uffd)


class Peer:
    """A process that runs a function as another user, answers with what it returns, and then stays as long as wanted."""

    def __init__(self, uid, function, *arguments):
        answer, answer_in = os.pipe()
        stay_out, self._stay = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(answer)
            os.close(self._stay)
            self._run(uid, function, arguments, answer_in, stay_out)
        os.close(answer_in)
        os.close(stay_out)
        try:
            text = b""
            while True:
                if not select.select([answer], [], [], 2 * PATIENCE_S)[0]:
                    raise Failure(f"{function.__name__} as user {uid} did not return")
                data = os.read(answer, 65536)
                if not data:
                    break
                text += data
                if text.endswith(b"\n"):
                    break
            result = json.loads(text) if text else {"error": "it died"}
        except BaseException:
            self.end()
            raise
        finally:
            os.close(answer)
        if "error" in result:
            self.end()
            raise Failure(f"{function.__name__} as user {uid}: {result['error']}")
        self.result = result["return"]

    @staticmethod
    def _run(uid, function, arguments, answer_in, stay_out):
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as of a program that this user has started
            result = {"return": function(*arguments)}
        except BaseException:
            result = {"error": traceback.format_exc()}
        os.write(answer_in, json.dumps(result).encode() + b"\n")
        os.read(stay_out, 1)
        os._exit(0)

    def end(self):
        if self.pid:
            os.close(self._stay)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def run_as(uid, function, *arguments):
    """Run a function as another user, in a process of its own, and return what it returns."""
    with Peer(uid, function, *arguments) as peer:
        return peer.result

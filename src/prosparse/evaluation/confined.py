# SPDX-License-Identifier: Apache-2.0
"""Run a program that nobody has read: this file is started as a process of its own.

It reads a token and the program from stdin, gives up everything that a solution of a programming
exercise has no need of, runs it, and writes the token if the program came to its end. Ending early
(`sys.exit`, `os._exit`) writes nothing, so it is no pass.

The kernel refuses what was given up (seccomp), whatever the program imports: networks, other
processes and signals to them, changing files, larger limits. Reading files stays possible; what was
read cannot leave, for nothing but the verdict does. Standard library only.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys

CPU_SECONDS = 5
MEMORY_BYTES = 1 << 30
OPEN_FILES = 64

# System calls by name: (x86-64, arm64); None where the architecture has none.
REFUSED = {
    # networks
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "io_uring_setup": (425, 425),
    # processes, and reaching into others
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "setpriority": (141, 140),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    # changing files
    "creat": (85, None), "openat2": (437, 437), "open_by_handle_at": (304, 265),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "truncate": (76, 45), "ftruncate": (77, 46), "mknod": (133, None), "mknodat": (259, 33),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    # limits and the machine
    "setrlimit": (160, 164), "prlimit64": (302, 261), "mount": (165, 40), "umount2": (166, 39),
    "chroot": (161, 51), "pivot_root": (155, 41), "setns": (308, 268), "unshare": (272, 97),
    "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "reboot": (169, 142), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "swapon": (167, 224), "swapoff": (168, 225), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "sethostname": (170, 161), "iopl": (172, None),
    "ioperm": (173, None), "userfaultfd": (323, 282),
}  # fmt: skip
OPENING = {"open": (2, None), "openat": (257, 56)}
"""Refused when they would write."""
FLAGS_ARGUMENT = {"open": 1, "openat": 2}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> its column above, and what the kernel calls it (AUDIT_ARCH_*)."""
X32_NUMBERS = 0x40000000

# Of linux/filter.h, linux/seccomp.h and linux/prctl.h.
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # 1 is EPERM
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2


def seccomp_program(machine: str) -> bytes:
    """Return the filter as BPF instructions: (code, jump if true, jump if false, operand) each."""
    column, architecture = ARCHITECTURES[machine]
    steps = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
    ]
    if machine == "x86_64":  # the same calls again, under other numbers
        steps += [(IF_AT_LEAST, 0, 1, X32_NUMBERS), (RETURN, 0, 0, REFUSE)]
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            steps += [(IF_EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, REFUSE)]
    for name, numbers in OPENING.items():
        if numbers[column] is not None:
            flags_at = ARGUMENTS_AT + 8 * FLAGS_ARGUMENT[name]  # the low half: little-endian
            steps += [
                (IF_EQUAL, 0, 4, numbers[column]),
                (LOAD, 0, 0, flags_at),
                (IF_ANY_BIT, 0, 1, WRITES),
                (RETURN, 0, 0, REFUSE),
                (LOAD, 0, 0, NUMBER_AT),
            ]
    steps.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


class _Filter(ctypes.Structure):
    _fields_ = (("num_steps", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def confine() -> None:
    """Give up for good what a program to be judged must not do.

    Raises:
        OSError: The kernel does not confine here.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        raise OSError(f"no confinement is known for {sys.platform} on {machine}")
    for limit, value in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    program = seccomp_program(machine)
    steps = ctypes.create_string_buffer(program, len(program))
    asked = _Filter(len(program) // 8, ctypes.addressof(steps))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(asked), 0, 0),
    ):
        if prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl does not confine here")


def main() -> None:
    """Run the program on stdin and write the verdict to stdout."""
    token, _, program = sys.stdin.read().partition("\n")
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.dont_write_bytecode = True
    try:
        confine()
    except OSError as error:
        os.write(verdict, f"unconfined: {error}".encode())
        os._exit(1)
    try:
        exec(compile(program, "<answer>", "exec"), {"__name__": "answer"})
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(verdict, type(error).__name__.encode())
        os._exit(1)
    os.write(verdict, token.encode())
    os._exit(0)


if __name__ == "__main__":
    main()

"""Check every node of a job before it starts: versions, data, disk, GPUs, run directory; build native code on each."""

import argparse

from mnmt_ds.config.paths import path_option

HELP = "check every node of a job and build native code on each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import number_option

    parser.add_argument("recipe", type=path_option, help="YAML recipe")
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument("-H", "--hostfile", type=path_option, help="lines HOST slots=N; default: this node alone")
    parser.add_argument("--launcher", default="pdsh", help="slurm: reach nodes by srun; otherwise by ssh")
    parser.add_argument("--ssh-port", "--ssh_port", type=number_option(int, ge=1, le=65_535), help="default: ssh's own")
    parser.add_argument("--rehash", action="store_true", help="read all prepared data again and compare its hashes")
    parser.add_argument("--node", metavar="TOKEN", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each fault and one for each node.

    Args:
        args: the parsed arguments.

    Returns:
        0 where there is no fault, else 2.
    """
    from mnmt_ds.launching.hostfile import read_hostfile
    from mnmt_ds.launching.node_report import format_line, report_node
    from mnmt_ds.launching.preflight import preflight
    from mnmt_ds.launching.remote import RemoteShell

    if args.node is not None:  # this process was started by another node's
        print(format_line(report_node(args.recipe, args.overrides, args.node, args.rehash)))
        return 0
    nodes = read_hostfile(args.hostfile) if args.hostfile is not None else {"localhost": 0}
    shell = RemoteShell(args.launcher, args.ssh_port)
    result = preflight(nodes, shell, args.recipe, args.overrides, args.rehash)
    for fault in result.faults:
        print(fault)
    for name, report in result.reports.items():
        print(f"node {name}: {report.address}, {report.gpus} GPU(s), data {report.must_match.get('data', 'none')}")
    print(f"{len(nodes)} node(s), {len(result.faults) or 'no'} fault(s)")
    return 2 if result.faults else 0

"""The list of ``private_api_list`` as a page, docs/deepspeed_internals.md; ``mnmt_ds.cli.reference`` writes it."""

from mnmt_ds.private_api_list import PRIVATE_APIS, TESTED


def page() -> str:
    """Renders the page ``docs/deepspeed_internals.md``.

    Returns:
        Markdown, with a final line end.
    """
    lines = [
        "# Private parts of other packages",
        "",
        "These names are no public interface and may vanish with any release. After an upgrade run",
        "`pytest tests/unit/test_private_apis.py`: it names what is gone and which file needs it.",
        "",
        "| package | versions | tested with |",
        "|---|---|---|",
        *(f"| {package} | {declared} | {tested} |" for package, (declared, tested) in TESTED.items()),
        "",
        "| where: names | used in | what is done | why | last seen in |",
        "|---|---|---|---|---|",
    ]
    for api in PRIVATE_APIS:
        names = ", ".join(f"`{name}`" for name in api.names)
        lines.append(f"| `{api.owner}`: {names} | `{api.used_in}` | {api.use} | {api.reason} | {api.seen} |")
    return "\n".join(lines) + "\n"

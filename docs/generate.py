"""Writes the pages of docs/ that come from the code: settings.md, cli.md. `--check` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gpu_mesh.cli.root import root
from gpu_mesh.services.settings_table import rows
from gpu_mesh.settings import Settings

DOCS = Path(__file__).parent


def settings_page() -> str:
    """Every setting: name, default, unit, meaning."""
    lines = [
        "# Settings",
        "",
        "Generated from `gpu_mesh/settings/model.py` by `docs/generate.py`; do not edit.",
        "",
        "Values come from the environment, else from `.env` in the working folder, else from the default. Lists are",
        "separated by commas, maps are `name=value` pairs. An unknown `GPU_MESH_*` name is refused. `gpu-mesh config`",
        "shows what holds on a machine, and from where.",
        "",
        "| Name | Default | Unit | Meaning |",
        "|---|---|---|---|",
    ]
    for row in rows(Settings(_env_file=None), dotenv=None):
        name = " or ".join(f"`{name}`" for name in row.names)
        default = row.default if row.default.startswith("(") else f"`{row.default}`" if row.default else "–"
        lines.append(f"| {name} | {default} | {row.unit or '–'} | {row.description} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """Every command's help text."""
    context = click.Context(root, info_name="gpu-mesh", max_content_width=100, terminal_width=100)
    lines = ["# Commands", "", "Generated from `gpu_mesh/cli/` by `docs/generate.py`; do not edit.", ""]
    lines += ["```text", root.get_help(context), "```", ""]
    for name, command in sorted(root.commands.items()):
        inner = click.Context(command, info_name=name, parent=context, max_content_width=100, terminal_width=100)
        lines += [f"## `gpu-mesh {name}`", "", "```text", command.get_help(inner), "```", ""]
    return "\n".join(lines)


PAGES = {"settings.md": settings_page, "cli.md": cli_page}


def main() -> int:
    """Write the pages, or with `--check` say which ones are out of date."""
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run `make docs`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

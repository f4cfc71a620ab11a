"""`rcdm demo`: the whole story on the embedded data."""

from __future__ import annotations

from pathlib import Path

import click

from rcdm_cli.console import as_path_text, reporter, say
from rcdm_cli.options import compute_options, out_option


@click.command("demo")
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Of each model's training. [default: 300 to 1400, as fit into 8 minutes]",
)
@click.option("--oracle", "oracles", multiple=True, metavar="NAME", help="Two of rcdm providers' oracles; repeatable.")
@out_option("Folder of the page and the models. [default: runs/demo]")
@click.option("--open/--no-open", "open_page", default=True, help="Open the page in the browser. [default: open]")
@compute_options
def command(
    steps: int | None,
    oracles: tuple[str, ...],
    out: Path | None,
    open_page: bool,
    seed: int,
    device: str,
    precision: str,
) -> None:
    """Find out what two encoders forget, in minutes.

    Trains an RCDM for each on the embedded shapes, probes both, and opens a page with the conclusion. What the two
    forget is known, so a wrong conclusion ends with exit code 1. The same command goes on with a demo that was stopped.
    """
    from rcdm_core import demo

    outcome = demo.run(
        oracles=oracles,
        steps=steps,
        out=out or Path("runs") / "demo",
        seed=seed,
        device=device,
        precision=precision,
        progress=reporter(),
    )
    for sentence in outcome.sentences:
        say(sentence)
    say(f"See {as_path_text(outcome.page)}")
    if open_page and has_display():
        click.launch(str(outcome.page))
    if not outcome.correct:
        raise click.exceptions.Exit(1)


def has_display() -> bool:
    """Whether a browser would have somewhere to appear."""
    import os
    import sys

    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

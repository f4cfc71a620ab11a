"""The options that several commands share: each is defined once, here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from rcdm_cli.console import say
from rcdm_core import defaults

F = TypeVar("F", bound=Callable[..., Any])

_DEBUG = "rcdm_cli.debug"
_VERBOSE = "rcdm_cli.verbose"
_PATH = click.Path(path_type=Path)


def wants_traceback() -> bool:
    """Whether --debug was given, before or after the command's name."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(_DEBUG))


def _set_debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta[_DEBUG] = True


class _Echo(logging.Handler):
    """Writes what the library has to say to stderr, wherever that goes at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _set_verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and _VERBOSE not in context.meta:
        context.meta[_VERBOSE] = True
        logger, handler = logging.getLogger("rcdm_core"), _Echo()
        before = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)

        def undo() -> None:
            logger.removeHandler(handler)
            logger.setLevel(before)

        context.call_on_close(undo)


def _try_plugins(context: click.Context, parameter: click.Parameter, value: tuple[Path, ...]) -> None:
    _try(context, value)


def _try(context: click.Context, paths: Sequence[Path]) -> None:
    if paths:
        from rcdm_core import registry

        for path in paths:
            context.with_resource(registry.trying(path))


def try_plugins_among(context: click.Context, words: Sequence[str]) -> list[str]:
    """Try the plugins that a subcommand's words name with --plugin; returns the other words."""
    rest, paths = [], []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name != "--plugin" or not (equals or (value := next(left, ""))):
            rest.append(word)
        else:
            paths.append(Path(value))
    _try(context, paths)
    return rest


def common_options(command: F) -> F:
    """--plugin, --verbose and --debug, which every command has."""
    for option in (
        click.option(
            "--plugin",
            multiple=True,
            type=_PATH,
            is_eager=True,
            expose_value=False,
            callback=_try_plugins,
            metavar="FILE|DIR",
            help="Try a plugin that is not installed; repeatable.",
        ),
        click.option(
            "--verbose",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_set_verbose,
            help="Say more, such as which tensors of a checkpoint are left out.",
        ),
        click.option(
            "--debug",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_set_debug,
            help="Show tracebacks of errors.",
        ),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything drawn.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps, or auto: cuda if there is one."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of the network's forward pass; auto: bf16 where the device computes it fast.",
)


def _one_weights(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> str | None:
    from rcdm_core.weights_given import one_weights

    return one_weights(value, context.command_path)


def _weights_option(help: str) -> Callable[[F], F]:
    """--weights of a command that takes one; a second one is an error rather than the one that counts."""
    return click.option("--weights", multiple=True, metavar="FILE|URL", callback=_one_weights, help=help)


weights_option = _weights_option("Checkpoint of the encoder, instead of the provider's own.")
several_weights_option = click.option(
    "--weights",
    multiple=True,
    metavar="FILE|URL",
    help="Checkpoint of the encoder, instead of the provider's own; repeatable, or a pattern in quotes: "
    "a model for each.",
)
provider_options_option = click.option(
    "--provider-option",
    "provider_options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda context, parameter, value: parse_assignments(value),
    help="Option of the provider (rcdm providers show NAME lists them); repeatable.",
)
representation_option = click.option(
    "--representations", type=_PATH, metavar="FILE", help="Take h from what rcdm encode wrote, where it has it."
)
representations_option = click.option(
    "--representations",
    multiple=True,
    type=_PATH,
    metavar="FILE",
    help="Take h from what rcdm encode wrote, where it has it; repeatable, for several models.",
)
data_option = click.option("--data", metavar="DIR", help="Folder of images, or shapes[:N[:SEED]].")
_fit_option = click.option(
    "--fit",
    type=click.Choice(["crop", "pad"]),
    default="crop",
    show_default=True,
    help="crop: the central square; pad: the whole image on a white square.",
)
_keep_duplicates_option = click.option(
    "--keep-duplicates", is_flag=True, help="Count links and copies of one picture as several."
)
models_option = click.option(
    "--model",
    "models",
    multiple=True,
    type=_PATH,
    metavar="RUN",
    help="Trained model; repeatable. Without it, the newest under ./runs.",
)
model_option = click.option(
    "--model", type=_PATH, metavar="RUN", help="Trained model. Without it, the newest under ./runs."
)
images_option = click.option(
    "--image",
    "images",
    multiple=True,
    type=_PATH,
    metavar="FILE|DIR",
    help="Image, or folder of images; repeatable.",
)


def parse_assignments(texts: tuple[str, ...]) -> dict[str, str]:
    """`("a=1", "b=x=y")` -> `{"a": "1", "b": "x=y"}`; raises click.BadParameter, also for two values of one name."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE")
        name = name.strip()
        if pairs.setdefault(name, value) != value:
            raise click.BadParameter(f"{name} is given twice, as {pairs[name]!r} and as {value!r}; leave one out")
    return pairs


def models_or_newest(models: Sequence[Path]) -> list[Path]:
    """The models that were given, or the newest one under ./runs, which is named on stderr.

    Raises RCDMError when there is none.
    """
    if models:
        return list(models)
    from rcdm_core.bundle import newest_bundle

    newest = newest_bundle("runs")
    say(f"No --model: taking the newest, {newest}.", err=True)
    return [newest]


def out_option(help: str) -> Callable[[F], F]:
    """--out with what the command writes there."""
    return click.option("--out", type=_PATH, metavar="DIR", help=help)


def data_reading_options(command: F) -> F:
    """--fit and --keep-duplicates: how a folder becomes square pictures."""
    return _fit_option(_keep_duplicates_option(command))


def sampling_options(command: F) -> F:
    """--sampler and --sampling-steps."""
    for option in (
        click.option(
            "--sampling-steps",
            type=click.IntRange(1),
            default=defaults.SAMPLING_STEPS,
            show_default=True,
            help="Steps of the sampler.",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["dpm++", "ddim", "ddpm"]),
            default=defaults.SAMPLER,
            show_default=True,
            help="How a sample is drawn.",
        ),
    ):
        command = option(command)
    return command


_moved_provider_option = click.option(
    "--provider", metavar="NAME", help="Provider of the model's encoder, where it has another name now."
)


def moved_encoder_options(command: F) -> F:
    """--provider and --weights, for a model whose encoder is no longer where it was; its fingerprint decides."""
    return _moved_provider_option(_weights_option("Checkpoint of the model's encoder, where it has moved.")(command))


def moved_encoders_options(command: F) -> F:
    """The same for several models."""
    several = click.option(
        "--weights",
        multiple=True,
        metavar="FILE|URL",
        help="Checkpoint of the models' encoder, where it has moved; several: of each --model, in their order.",
    )
    return _moved_provider_option(several(command))


def compute_options(command: F) -> F:
    """--seed, --device and --precision, which every command that computes has, and those of every command."""
    for option in (common_options, precision_option, device_option, seed_option):
        command = option(command)
    return command

"""Options and arguments that several commands share, and how examples stand below a command's help."""

from __future__ import annotations

import os

import typer

from edgecnn.cli.completion import complete_model, complete_recipe

TAKES = typer.Option(
    "--input", help="What the graph takes: normalised images, or pixels (0 to 255) as float32 NCHW or as uint8 NHWC."
)
GIVES = typer.Option(
    "--output", help="What the graph gives; -o names the file. top-k: the five best classes and their probabilities."
)
EMA = typer.Option("--ema", help="Of a checkpoint with an averaged copy of its weights, take that copy.")
DATA = typer.Option(help="Test images: digits, mnist:DIR, cifar10:DIR, an image folder, a manifest, or an .npz.")
IMAGES = typer.Option(help="Training images: a manifest, a data set, a folder, or an .npz.")
MOST_IMAGES = typer.Option(min=1, help="Use at most this many images, spread over the classes.")
SKIP_CORRUPT = typer.Option("--skip-corrupt", help="Leave unreadable images out, and say how many.")
JSON = typer.Option("--json", help="Print one JSON document in place of the table.")
MODEL = typer.Argument(
    help="A network of the zoo; `edgecnn models` lists them.", autocompletion=complete_model, show_default=False
)
NETWORK = typer.Argument(
    help="A network of the zoo (`edgecnn models` lists them), FILE.py:FUNCTION that returns one of yours, or "
    "hf://OWNER/REPO of the Hugging Face Hub.",
    autocompletion=complete_model,
    show_default=False,
)
RECIPE = typer.Argument(help="A recipe's name, or a path to its TOML.", autocompletion=complete_recipe)
RUNNABLE = typer.Argument(
    help="A recipe's name or TOML; a run folder, which carries its recipe; or a bundle (.tar).",
    autocompletion=complete_recipe,
)
RUN = typer.Argument(
    help="A run folder, one of its targets, or a recipe (its run is ./runs/RECIPE).", autocompletion=complete_recipe
)
RUN_RECIPE = typer.Option(
    help="The recipe of a run folder.  [default: the one that it carries]", autocompletion=complete_recipe
)
RECIPE_DATA = typer.Option(help="Where the recipe's images lie here: a folder, or any other source of images.")
CALIBRATION_DATA = typer.Option(help="Where the images to calibrate with lie, if not in --data.")
SET = typer.Option("--set", help="Change a setting of the recipe, such as train.epochs=3; repeatable.")
TARGETS = typer.Option("--target", help="Only this target of the recipe; repeatable.  [default: all]")
THREADS = typer.Option(min=1, max=1024, help="CPU threads.  [default: one for each core that may be used]")
MAKING_THREADS = typer.Option(
    min=1, max=1024, help="CPU threads.  [default: one for each core that is idle, at least half of all]"
)
PROVIDER = typer.Option(help="What of ONNX Runtime computes.  [default: the engine's, or cpu]", show_default=False)
PREPROCESS = typer.Option(
    help="How an own network's images are preprocessed: a preset (imagenet-224, half-224 ...) or a JSON file."
)
TRUST_CODE = typer.Option("--trust-code", help="Run the Python file that the network is made by.")
TRUST = typer.Option("--trust", help="Load a plan that has no sidecar, though it is native code.")
ALLOWED_SIGNERS, REQUIRED = "EDGECNN_ALLOWED_SIGNERS", "EDGECNN_REQUIRE_SIGNATURE"  # read by artifact/signature.py
ACCEPTED = "EDGECNN_ACCEPT_HASH"  # read by pytorch/download.py
REQUIRE_SIGNATURE = typer.Option(
    "--require-signature",
    help="Refuse what nobody that is allowed has signed (`edgecnn sign`).",
    callback=lambda context, value: _for_this_command(context, REQUIRED, "1") if value else value,
)
ALLOWED = typer.Option(
    "--allowed-signers",
    help="Whose signatures count, as for ssh-keygen.  [default: $EDGECNN_ALLOWED_SIGNERS, or ~/.ssh/allowed_signers]",
    callback=lambda context, value: _for_this_command(context, ALLOWED_SIGNERS, value) if value else value,
    show_default=False,
)

INSTALLED_IN = typer.Option(
    "--to",
    help="The folder of one classifier's releases.  [default: edgecnn/installed in $XDG_DATA_HOME or ~/.local/share]",
    show_default=False,
)
ACCEPT_HASH = typer.Option(
    "--accept-hash",
    help="Take the weights of a URL that comes without a sha256, and remember theirs.",
    callback=lambda context, value: _for_this_command(context, ACCEPTED, "1") if value else value,
)


def _for_this_command(context: typer.Context, name: str, value: object) -> object:
    """Let a value stand in the environment, which processes that the command starts inherit, until it ends."""
    before = os.environ.get(name)
    os.environ[name] = str(value)
    context.call_on_close(lambda: os.environ.pop(name) if before is None else os.environ.update({name: before}))
    return value


def epilog(examples: str) -> str:
    """The end of a command's help: one example a line. `# needs ...` marks those that not every machine can run."""
    return "\b\nexamples:\n" + "".join(f"  {line}\n" for line in examples.strip().splitlines())

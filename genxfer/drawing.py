"""The verbs of the command line for a trained model, without params.yaml: sample, interpolate, export, merge.

Below `cli.py`, which hangs them among the others, and imports as little at the top; what is asked for is checked here,
before anything slow is imported, and done by `stages/model_pictures.py`, `stages/merging.py` and the registry.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

MODEL = "models:/NAME@ALIAS, models:/NAME/VERSION, or a folder such as artifacts/finetune"
EPILOG = "What seed, temperature and latents are, and how to serve a model: docs/serving.md."

MAX_IMAGES, MAX_ROWS, MAX_FRAMES = 10_000, 64, 120


def add_drawing(verbs: Any) -> None:
    """Add the four verbs."""
    sample = _verb(verbs, "sample", "draw samples from a registered model or a snapshot", _sample)
    sample.add_argument("-n", type=int, default=64, help="how many (default: 64)")
    sample.add_argument(
        "-o",
        "--output",
        default="samples.png",
        help="NAME.png: one grid; NAME.npy: uint8 [N H W C]; NAME: a folder of PNG files (default: samples.png)",
    )
    _add_noise(sample)
    way = _verb(verbs, "interpolate", "go from sample to sample through what lies between", _interpolate)
    way.add_argument("--rows", type=int, default=8, help="how many ways, each between 2 samples (default: 8)")
    way.add_argument("--frames", type=int, help="pictures of a way, its ends included (default: 9; 24 for a GIF)")
    way.add_argument(
        "-o",
        "--output",
        default="interpolation.png",
        help="NAME.png: a grid, a row for each way; NAME.gif: there and back in a loop (default: interpolation.png)",
    )
    _add_noise(way)
    export = _verb(verbs, "export", "write the nets that draw samples as an ONNX file, checked against torch", _export)
    export.add_argument("-o", "--output", default="generator.onnx", help="a file (default: generator.onnx)")
    export.add_argument("--json", action="store_true", help="print what was written as JSON")
    merge = _verb(verbs, "merge", "make the snapshot that a source model and an adapter learnt on it are", _merge)
    merge.add_argument("adapter", metavar="ADAPTER", help="a folder with adapter.safetensors and adapter.json")
    merge.add_argument("-o", "--output", default="merged", help="a folder for the two files (default: merged)")


def _verb(verbs: Any, name: str, text: str, function: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=EPILOG)
    verb.set_defaults(verb_function=function)
    verb.add_argument("model", metavar="MODEL", help=MODEL)
    return verb


def _add_noise(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: 0)")
    verb.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="of the noise that images start from: below 1 they are more alike (default: 1)",
    )


def _sample(parsed: argparse.Namespace) -> None:
    """Draw samples into a grid, an array or a folder."""
    _within("-n", parsed.n, 1, MAX_IMAGES)
    output = _named(parsed.output, ".png", ".npy", "")
    _check_noise(parsed)
    from genxfer.stages.model_pictures import save_samples
    from genxfer.stages.user_files import check_free, check_place

    check_place(output)
    if not output.suffix:
        check_free(output)
    save_samples(parsed.model, parsed.n, parsed.seed, parsed.temperature, output)
    print(parsed.output)


def _interpolate(parsed: argparse.Namespace) -> None:
    """Draw ways between samples into a grid or an animation."""
    output = _named(parsed.output, ".png", ".gif")
    frames = parsed.frames if parsed.frames is not None else 24 if output.suffix.lower() == ".gif" else 9
    _within("--rows", parsed.rows, 1, MAX_ROWS)
    _within("--frames", frames, 2, MAX_FRAMES)
    _check_noise(parsed)
    from genxfer.stages.model_pictures import save_interpolations
    from genxfer.stages.user_files import check_place

    check_place(output)
    save_interpolations(parsed.model, parsed.rows, frames, parsed.seed, parsed.temperature, output)
    print(parsed.output)


def _export(parsed: argparse.Namespace) -> None:
    """Write an ONNX file."""
    output = _named(parsed.output, ".onnx")
    from genxfer.registry.onnx_export import check_packages, export_onnx
    from genxfer.registry.pull import load_sampler
    from genxfer.stages.user_files import check_place, writing
    from genxfer.terminal import print_exported

    check_packages()
    check_place(output)
    sampler = load_sampler(parsed.model)
    with writing(output):
        exported = export_onnx(sampler, output)
    if parsed.json:
        print(json.dumps(asdict(exported)))
    else:
        print_exported(exported)


def _merge(parsed: argparse.Namespace) -> None:
    """Write the snapshot that a source model and an adapter are."""
    output, adapter = _named(parsed.output, ""), Path(parsed.adapter)
    from genxfer.stages.merging import check_adapter, save_merged
    from genxfer.stages.user_files import check_free, check_place

    check_adapter(adapter)
    check_place(output)
    check_free(output)
    save_merged(parsed.model, adapter, output)
    print(parsed.output)


def _check_noise(parsed: argparse.Namespace) -> None:
    from genxfer.registry.limits import check_seed, check_temperature

    check_seed(parsed.seed)
    check_temperature(parsed.temperature)


def _within(name: str, value: int, least: int, most: int) -> None:
    from genxfer.errors import ParameterError

    if not least <= value <= most:
        raise ParameterError(f"{name} is {value}; allowed: {least} to {most}.")


def _named(output: str, *suffixes: str) -> Path:
    """Return the path of an output whose name says what it is to be; "" among `suffixes` stands for a folder."""
    from genxfer.errors import ParameterError

    path = Path(output)
    if path.suffix.lower() not in suffixes or path.name in ("", ".."):
        allowed = " or ".join([f"a file that ends in {suffix}" if suffix else "a folder" for suffix in suffixes])
        raise ParameterError(f"-o is {output!r}; its name says what is written: {allowed}.")
    if path.suffix and path.is_dir():
        raise ParameterError(f"-o is {output!r}, which is a folder; name a file.")
    return path

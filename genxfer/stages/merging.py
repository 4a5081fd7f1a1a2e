"""A source model and an adapter that was learnt on it become the model that training published: `genxfer merge`.

Knows nothing of the pipeline: the source is a registered model or a snapshot's folder, the adapter the two files that
`finetune.method=lora` leaves beside its snapshot.
"""

from pathlib import Path

from genxfer.errors import ParameterError, TrainingError
from genxfer.models.files import ADAPTER_DESCRIPTION_FILE, ADAPTER_FILE
from genxfer.stages.user_files import whole_folder, writing


def check_adapter(folder: Path) -> None:
    """Raise ParameterError where `folder` is none with the two files of an adapter."""
    files = (ADAPTER_FILE, ADAPTER_DESCRIPTION_FILE)
    if missing := [file for file in files if not (folder / file).is_file()]:
        state = f"has no {' and no '.join(missing)}" if folder.is_dir() else "is no folder"
        raise ParameterError(
            f"ADAPTER is {str(folder)!r}, which {state}. Give a folder with {' and '.join(files)}, such as "
            "artifacts/finetune after finetune.method=lora."
        )


def save_merged(model: str, adapter_folder: Path, output: Path) -> None:
    """Write the two files of the snapshot that `model` and the adapter make, to the byte as they were published.

    Raises RegistryError when there is no such model, TrainingError when the adapter was learnt on other weights or
    cannot be read, ParameterError when `output` cannot be written.
    """
    from genxfer.registry.pull import load_weights
    from genxfer.training.snapshot import Snapshot, family_of, save_snapshot
    from genxfer.transfer.adapter import load_adapter, merge_adapter

    adapter, source = load_adapter(adapter_folder), load_weights(model)
    merged = merge_adapter(source.weights, adapter)
    if adapter.parent != source.digest:
        raise TrainingError(
            f"The adapter in {adapter_folder} was not learnt on {model}, but on other weights of the same shapes: its "
            f"parent's SHA-256 is {adapter.parent}, this one's {source.digest}. Give the source model that "
            "finetune.init_from named then."
        )
    described = {**source.description, "model": adapter.model}
    family = family_of(Snapshot(merged, described, source.digest))
    with writing(output), whole_folder(output) as unfinished:
        save_snapshot(unfinished, family, images_seen=adapter.images_seen, parent=source)

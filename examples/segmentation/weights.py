"""A file of weights into an encoder: every entry of the encoder gets a value, and no layer of the file is left over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphcorrect.encoders import rename_lite0
from graphcorrect.files.faults import FileFault, check_archive, reading

Entries = dict[str, Tensor]
NO_WEIGHTS = ("num_batches_tracked", "total_ops", "total_params")  # counters, of BatchNorm and of profilers


def load_encoder_weights(encoder: nn.Module, file: Path) -> None:
    """Load a file into an smp encoder.

    The entries may be nested (`state_dict`, `model`, ...) and named from outside (`module.`, `encoder.`, ...). What
    belongs to other parts, such as a classifier, may be left over; layers of a deeper encoder may not.

    Raises:
        ValueError: the file cannot be read, or does not fit; the message names it and the first few entries at fault.
    """
    if file.is_dir() or not (file.exists() or file.is_symlink()):
        raise ValueError(f"expected `weights` to be 'auto', 'none' or a file, got {str(file)!r}, which is no file")
    wanted = encoder.state_dict()
    with reading(file, "`weights`, a state dict of the encoder"):
        entries = entries_for(wanted, read_tensors(file))
    fault = misfit(wanted, entries)
    if fault:
        raise FileFault(f"expected `weights` to fill the encoder, but {file} {fault}")
    encoder.load_state_dict({key: entries.get(key, value) for key, value in wanted.items()})


def read_tensors(file: Path) -> Any:
    """What a file of torch or of safetensors holds; tensors and plain values only, so that it runs no code."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        with reading(file):
            return load_file(file)
    check_archive(file)
    with reading(file):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            if "weights_only" in str(error):  # torch's own advice is to run whatever is in there
                raise ValueError(
                    "holds objects beside tensors, which could run code, or is no file of torch; save the state dict "
                    "alone: torch.save(model.state_dict(), ...)"
                ) from error
            raise


def entries_for(wanted: Entries, content: Any) -> Entries:
    """The entries of a file by the encoder's names: those of the one dict and prefix that fit most of them."""
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, no dict of tensors")
    candidates = []
    for place, tensors in dicts_of_tensors(content):
        if "_conv_stem.weight" in tensors:  # of the package efficientnet-lite-pytorch
            tensors = {rename_lite0(key): value for key, value in tensors.items()}
        for prefix in prefixes_of(tensors, wanted):
            named = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            named = in_wrapper(named, wanted)
            candidates.append((len(named.keys() & wanted.keys()), f"{place}{prefix}*", named))
    if not candidates:
        raise ValueError("holds no tensors by name")
    most = max(count for count, _, _ in candidates)
    best = [candidate for candidate in candidates if candidate[0] == most]
    different = [each for each in best[1:] if not _same(each[2], best[0][2], wanted)]
    if most and different:
        places = ", ".join(place for _, place, _ in [best[0], *different])
        raise ValueError(f"holds several sets of weights that fit, {places}; save the one you mean alone")
    return best[0][2]


def dicts_of_tensors(content: dict, place: str = "", depth: int = 3) -> Iterator[tuple[str, Entries]]:
    """Dicts in a checkpoint that hold tensors by name, with where they are, the outermost first."""
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items() if depth else ():
        if isinstance(value, dict):
            yield from dicts_of_tensors(value, f"{place}{key}: ", depth - 1)


def prefixes_of(tensors: Entries, wanted: Entries) -> list[str]:
    """What the file puts before the encoder's names, such as `module.` or `model.encoder.`; "" among them."""
    first = next(key for key in wanted if not key.endswith(NO_WEIGHTS)).removeprefix("model.")
    ends = [key.removesuffix(first) for key in tensors if key == first or key.endswith(f".{first}")]
    return list(dict.fromkeys([*ends, ""]))


def in_wrapper(named: Entries, wanted: Entries) -> Entries:
    """timm's encoders are `model` within smp's; their published names are without it."""
    is_wrapped = all(key.startswith("model.") for key in wanted)
    return {f"model.{key}" if is_wrapped and key not in wanted else key: value for key, value in named.items()}


def misfit(wanted: Entries, entries: Entries) -> str | None:
    """What is wrong: entries that are missing, left over in a layer of the encoder, of another shape, or not finite."""
    missing = [key for key in wanted if key not in entries and not key.endswith(NO_WEIGHTS)]
    if missing:
        return f"lacks {len(missing)} of {len(wanted)} entries: {_some(missing)}"
    parts = {_part(key) for key in wanted}
    over = [key for key in entries if key not in wanted and _part(key) in parts and not key.endswith(NO_WEIGHTS)]
    if over:
        return f"is of another encoder, {len(over)} of its entries would go unused: {_some(over)}"
    shapes = [
        f"{key} {tuple(entries[key].shape)} for {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in entries and entries[key].shape != value.shape
    ]
    if shapes:
        return f"is of another encoder, {len(shapes)} shapes differ: {_some(shapes)}"
    spoiled = [key for key in wanted if key in entries and not torch.isfinite(entries[key].float()).all()]
    return f"holds NaN or Inf in {_some(spoiled)}" if spoiled else None


def _part(key: str) -> str:
    """The outermost module of an entry."""
    return key.removeprefix("model.").split(".")[0]


def _same(first: Entries, second: Entries, wanted: Entries) -> bool:
    return all(
        key in first
        and key in second
        and first[key].shape == second[key].shape
        and torch.equal(first[key], second[key])
        for key in wanted
        if key in first or key in second
    )


def _some(words: list[str]) -> str:
    return ", ".join(words[:4]) + (", ..." if len(words) > 4 else "")

"""A network out of a file or a module, as a function of one image."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect.encoders import PREFIX
from graphcorrect.files.faults import check_archive, reading, words
from graphcorrect.files.folders import is_hidden

EXPORTED = (".pt2",)


class Model:
    """Turns an image (1, 3, H, W) in [0, 1] into logits (1, C, h, w).

    The network takes images normalized by `mean` and `std`, padded to sides of a multiple of `multiple`; it returns a
    tensor, a mapping that holds one as "logits" or "out", or a tuple that begins with one. One channel is a sigmoid's.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        *,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        multiple: int = 1,
    ) -> None:
        self.network, self.multiple = network, multiple
        self.mean = None if mean is None else torch.tensor(mean).view(3, 1, 1)
        self.std = None if std is None else torch.tensor(std).view(3, 1, 1)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Logits; of probabilities their logarithm."""
        height, width = image.shape[-2:]
        if self.mean is not None and self.std is not None:
            image = (image - self.mean.to(image)) / self.std.to(image)
        padded = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        try:
            found = self.network(padded)
        except Exception as error:  # whatever a network of somebody else's raises
            raise ValueError(
                f"--model failed on an image of {height} x {width}: {type(error).__name__}: {words(error)}"
            ) from error
        logits, size = as_logits(_tensor_of(found)), padded.shape[-2:]
        if size == image.shape[-2:]:
            return logits
        if any(side % cells for side, cells in zip(size, logits.shape[-2:], strict=True)):
            logits = F.interpolate(logits, size=size, mode="bilinear")
        rows, columns = (side // cells for side, cells in zip(size, logits.shape[-2:], strict=True))
        return logits[..., : math.ceil(height / rows), : math.ceil(width / columns)]  # not the padding's cells


def _tensor_of(found: Any) -> Tensor:
    if isinstance(found, Mapping):
        found = next((found[name] for name in ("logits", "out") if name in found), found)
    elif hasattr(found, "logits"):
        found = found.logits
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim != 4 or not found.is_floating_point() or len(found) != 1:
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"expected --model to return floating point of shape (1, C, h, w), got {got}")
    return found.float()


def as_logits(found: Tensor) -> Tensor:
    """Scores (1, C, h, w) as they are, probabilities as their logarithm, and both classes of a sigmoid."""
    if not torch.isfinite(found).all():
        raise ValueError("expected --model to return finite values, got NaN or Inf")
    if found.shape[1] == 1:
        if found.amin() >= 0 and found.amax() > 1 and torch.equal(found, found.round()):
            raise ValueError(
                "expected --model to return a score for each class, got one channel of whole numbers from "
                f"{found.amin():.0f} to {found.amax():.0f}, as if they were labels; leave out its argmax"
            )
        if found.amin() >= 0 and found.amax() <= 1:
            return torch.cat([1 - found, found], 1).clamp_min(1e-8).log()
        return torch.cat([torch.zeros_like(found), found], 1)
    if _checks.are_probabilities(found, 1):
        return found.clamp_min(1e-8).log()
    return found


def open_model(name: str, device: torch.device) -> Callable[[Tensor], Any]:
    """The network of a TorchScript file, a file of `torch.export`, or `package.module:callable`, on a device."""
    path = Path(name)
    if path.exists() or path.is_symlink() or path.suffix in (".pt", ".pth", ".ts", *EXPORTED) or ":" not in name:
        with reading(path, "a model of TorchScript or torch.export"):
            check_archive(path)
            return _from_file(path, device)
    network = named_object(name, "--model")
    if not callable(network):
        raise ValueError(f"expected --model {name} to return a network, got {type(network).__name__}")
    return network.eval().to(device) if isinstance(network, nn.Module) else network


@contextlib.contextmanager
def options_named(**options: str) -> Iterator[None]:
    """Whatever is refused inside is said of options of the command instead of arguments: `encoder="--encoder"`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        said = str(error)
        for argument, option in options.items():
            said = said.replace(f"`{argument}`", option)
        if said == str(error):
            raise
        raise ValueError(said) from error


def open_encoder(name: str, device: torch.device) -> Any:
    """What `package.module:callable` names or builds, on a device; the names of timm's encoders as they are."""
    if name.startswith(PREFIX) or ":" not in name:
        return name
    found = named_object(name, "--encoder")
    return found.to(device) if isinstance(found, nn.Module) else found


def _from_file(path: Path, device: torch.device) -> Callable[[Tensor], Any]:
    if path.suffix in EXPORTED:
        exported: Any = torch.export.load(path)
        module: nn.Module = exported.module()
        return module.to(device)
    try:
        with warnings.catch_warnings():  # newer versions of torch advise against what older files are
            warnings.simplefilter("ignore")
            scripted: nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(
            "is no TorchScript; weights alone are no model: save torch.jit.script(model), torch.export.save(...), or "
            f"name a function that builds it, package.module:callable ({words(error)[:80]})"
        ) from error
    return scripted.eval()


def named_object(name: str, option: str) -> Any:
    """What `package.module:callable` names, or builds without arguments, also one of the working folder."""
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected {option} as a file or package.module:callable, got {name!r}: {error}") from error
    if not callable(found):
        raise ValueError(f"expected {option} {name} to be callable, got {type(found).__name__}")
    return found() if is_factory(found) else found


def is_factory(found: Callable[..., Any]) -> bool:
    """Whether it is called without an image, to build the network."""
    if isinstance(found, nn.Module):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(each.default is not inspect.Parameter.empty or each.kind in kinds for each in parameters)


def identity(name: str) -> str:
    """What tells one model from another: of a file its content, of a folder that of its files."""
    path = Path(name)
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.is_file() and not is_hidden(each.name))
        listed = json.dumps([(each.name, _digest(each)) for each in files])
        return f"{name} {hashlib.sha256(listed.encode()).hexdigest()[:16]}"
    return f"{name} {_digest(path)[:16]}" if path.is_file() else name


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

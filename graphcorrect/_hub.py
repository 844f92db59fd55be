"""The mixin of `huggingface_hub` for modules, or what says how to get it; and why a folder holds no saved module."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def fault_of(folder: Path, key: str) -> str | None:
    """Why nothing can be loaded from a folder of `save_pretrained`; None if the files are whole.

    `key` is an entry that every configuration of this kind has.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            return f"has no {name}"
    try:
        if key not in json.loads((folder / CONFIG).read_text(encoding="utf-8")):
            return f"is of another kind: its {CONFIG} has no {key}"
    except (ValueError, TypeError) as error:
        return f"has a damaged {CONFIG} ({error})"
    try:
        with safetensors.safe_open(folder / WEIGHTS, "pt"):  # reads its list of tensors, and compares their sizes
            return None
    except safetensors.SafetensorError as error:
        return f"has a damaged {WEIGHTS} ({error})"


if TYPE_CHECKING:
    import safetensors

    class HubMixin:
        """`save_pretrained`, `from_pretrained` and `push_to_hub`."""

        _hub_mixin_config: dict[str, Any] | None

        def __init_subclass__(cls, **kwargs: Any) -> None: ...

        @classmethod
        def _from_pretrained(cls, **kwargs: Any) -> Any: ...

        @classmethod
        def from_pretrained(cls, name: str | Path, **kwargs: Any) -> Any: ...

        def _save_pretrained(self, save_directory: Path) -> None: ...

        def save_pretrained(self, folder: str | Path, **kwargs: Any) -> str | None: ...

        def push_to_hub(self, repository: str, **kwargs: Any) -> str: ...

else:
    try:
        import safetensors.torch  # noqa: F401  # the mixin's own format, which it imports when it writes
        from huggingface_hub import PyTorchModelHubMixin as HubMixin
    except ImportError:

        def _missing(*args: Any, **kwargs: Any) -> None:
            raise ImportError(
                'the Hugging Face Hub needs its client: pip install "graphcorrect[hub]", or from a clone ".[hub]"'
            )

        class HubMixin:
            """Stands where `huggingface_hub` is missing."""

            _hub_mixin_config = None

            def __init_subclass__(cls, **kwargs: Any) -> None:
                super().__init_subclass__()

            save_pretrained = push_to_hub = _missing
            from_pretrained = classmethod(_missing)

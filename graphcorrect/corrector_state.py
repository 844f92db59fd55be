"""What a SegmentationCorrector leaves in a state dict, and what one is made of again."""

from __future__ import annotations

import inspect
import json
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from graphcorrect._hub import WEIGHTS, HubMixin, fault_of
from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.banks.presets import Preset, bank_of
from graphcorrect.encoders import PREFIX, TimmEncoder
from graphcorrect.keys import KeyEncoder
from graphcorrect.refine import DualGraphRefiner

if TYPE_CHECKING:
    from typing_extensions import Self

_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
CARD = """---
{{ card_data }}
---

# Corrector of segmentation masks

Labeled pixels and settings of graphcorrect's `SegmentationCorrector`, which corrects the masks of any trained network:

```python
from graphcorrect import SegmentationCorrector

corrector = SegmentationCorrector.from_pretrained("this folder or repository")  # encoder=yours, if it had its own
corrected = corrector(images, logits=logits)  # images (B, 3, H, W) in [0, 1], logits (B, C, h, w)
corrected.labels  # (B, H, W)
```

It holds features of the labeled images, and their labels. Say here what these were, and whether you may share them.
"""
_CALIBRATED = ("strength", "eps", "balance", "temperature")  # of a bank, which `calibrate` may have chosen
_SLOTS = {"bank_.features": 0.0, "bank_.priority": -torch.inf}  # (C, capacity, ...), and what is in an empty slot


def _no_corrector(name: str | Path, fault: str) -> ValueError:
    return ValueError(
        "expected `name` to be a folder of SegmentationCorrector.save_pretrained, or a repository of the hub, got "
        f"{str(name)!r}, which {fault}"
    )


class CorrectorState(nn.Module, HubMixin):
    """Settings, labeled pixels and encoder of a corrector as entries of its `state_dict`; empty slots are left out."""

    num_classes: int
    preset: Preset
    encoder_name: str
    key_encoder: KeyEncoder
    guided: bool
    ignore_index: int
    bank_: AnchorBank | None
    _place: Tensor
    _bank_settings: dict[str, Any]
    _refiner_settings: dict[str, Any]
    _refiners: dict[int, DualGraphRefiner]
    _not_saved: ClassVar = {"encoder", "validate_args"}

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """The corrector of a folder, or of a repository of the hub, with the settings that it was saved with.

        Args:
            name: folder or repository.
            **options: `encoder`, where it is one of your own; `validate_args`; those of the hub, such as `revision`.

        Raises:
            ValueError: there is no such folder, its files are damaged or of something else, another setting is given,
                or an own encoder is not, or is another one.
        """
        saved = set(inspect.signature(cls).parameters) - cls._not_saved
        if given := sorted(saved & set(options)):
            raise ValueError(f"expected no `{given[0]}`, as a saved corrector has its own, got {options[given[0]]!r}")
        is_repository = isinstance(name, str) and _REPOSITORY.fullmatch(name) is not None
        if not is_repository and not Path(name).is_dir():  # which the hub would be asked for
            raise ValueError(f"expected `name` to be a folder, or a repository such as 'user/name', got {str(name)!r}")
        if (
            Path(name).is_dir()
            and hasattr(super(), "_from_pretrained")
            and (fault := fault_of(Path(name), "num_classes"))
        ):
            raise _no_corrector(name, fault)
        found: Self = super().from_pretrained(name, **options)
        return found

    @classmethod
    def _from_pretrained(cls, **settings: Any) -> Any:
        name = settings["model_id"]
        if "num_classes" not in settings:  # of which a repository says nothing
            raise _no_corrector(name, "has no config.json of a corrector")
        if "encoder" not in settings:
            raise ValueError("expected `encoder`, as the saved corrector had one that is none of timm's, got none")
        try:
            return super()._from_pretrained(**settings)
        except RuntimeError as error:  # of torch, which lists what does not fit
            said = next((line.strip() for line in str(error).splitlines() if "key_encoder." in line), "")
            if not said:
                raise
            raise ValueError(
                f"expected `encoder` to be that of the corrector in {name!r}, got another: {said}"
            ) from error

    def _save_pretrained(self, save_directory: Path) -> None:
        """As the mixin does, which leaves a file that its owner alone may read."""
        like = save_directory / f"{WEIGHTS}.partial"
        like.touch()
        mode = stat.S_IMODE(like.stat().st_mode)
        like.unlink()
        super()._save_pretrained(save_directory)
        (save_directory / WEIGHTS).chmod(mode)

    def _new_bank(self, key_dim: int) -> AnchorBank:
        settings = {"ignore_index": self.ignore_index, **self._bank_settings}
        return bank_of(self.preset, self.num_classes, key_dim, self._place, **settings)

    def _encoder_levels(self) -> list[int] | None:
        """Which levels of a timm encoder keys are made of."""
        encoder = self.key_encoder.encoder
        return list(encoder.levels) if isinstance(encoder, TimmEncoder) else None

    def get_extra_state(self) -> Tensor:
        """The settings as the bytes of a JSON text, which every format of tensors holds."""
        calibrated = {} if self.bank_ is None else {name: getattr(self.bank_, name) for name in _CALIBRATED}
        content = {
            "num_classes": self.num_classes,
            "encoder": self.encoder_name,
            "levels": self.key_encoder.levels,
            "encoder_levels": self._encoder_levels(),
            "magnifications": self.key_encoder.magnifications,
            "position": self.key_encoder.position,
            "preset": self.preset,
            "bank": self._bank_settings | calibrated,
            "refiner": self._refiner_settings,
            "guided": self.guided,
            "ignore_index": self.ignore_index,
            "anchors": None if self.bank_ is None else list(self.bank_.features.shape[1:]),
        }
        return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the settings over, and makes room for the bank that comes with them.

        Raises:
            ValueError: the state is that of other classes or of another encoder.
        """
        content = json.loads(bytes(state.tolist()))
        compared: dict[str, tuple[Any, Any]] = {"num_classes": (self.num_classes, content["num_classes"])}
        if PREFIX in (self.encoder_name[: len(PREFIX)], content["encoder"][: len(PREFIX)]):
            compared["encoder"] = self.encoder_name, content["encoder"]
            compared["levels"] = self._encoder_levels(), content.get("encoder_levels", self._encoder_levels())
        for name, (here, saved) in compared.items():  # of an encoder of one's own the weights have to fit
            if saved != here:
                raise ValueError(f"expected a state of `{name}` {here!r}, got {saved!r}")
        self.key_encoder.levels = None if content["levels"] is None else tuple(content["levels"])
        self.key_encoder.magnifications = tuple(content["magnifications"])
        self.key_encoder.position = content["position"]
        self.preset, self.guided, self.ignore_index = content["preset"], content["guided"], content["ignore_index"]
        self._bank_settings, self._refiner_settings = content["bank"], content["refiner"]
        self._refiners = {}
        self.bank_ = None
        if content["anchors"] is not None:
            self._bank_settings["capacity_per_class"], key_dim = content["anchors"]
            self.bank_ = self._new_bank(key_dim)

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """As of any module, without the slots that no class fills: a few labeled images make a small file."""
        entries: dict[str, Any] = super().state_dict(*args, **options)
        prefix = args[1] if len(args) > 1 else options.get("prefix", "")  # torch still takes it by place
        if self.bank_ is not None:
            filled = max(1, int(self.bank_.counts.max()))
            for name in _SLOTS:
                entries[prefix + name] = entries[prefix + name][:, :filled].clone()
        return entries

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.bank_ is None:
            return
        for name, empty in _SLOTS.items():
            if (found := state_dict.get(prefix + name)) is not None and found.ndim > 1:
                missing = max(0, self.bank_.capacity_per_class - found.shape[1])
                padding = found.new_full((len(found), missing, *found.shape[2:]), empty)
                state_dict[prefix + name] = torch.cat([found, padding], 1)

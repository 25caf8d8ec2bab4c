"""What a training case adds to a row: the recipe's numbers, as data."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(gt=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Step = Annotated[int, msgspec.Meta(ge=0)]


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A learning rate: ``base`` for 256 images of the batch, a linear warm-up, and how it falls after it.

    ``boundaries`` and ``factors`` belong to the decay by steps: one factor more than epochs at which the next one
    holds. ``end``, the last rate, and ``power`` are the polynomial's. The subject refuses what does not go together.
    """

    base: Annotated[float, msgspec.Meta(gt=0)]
    warmup_epochs: Amount
    epochs: Annotated[float, msgspec.Meta(gt=0)]
    decay: Literal["cosine", "cosine_unshifted", "steps", "polynomial"] = "cosine"
    boundaries: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    end: Amount = 0.0
    power: Annotated[float, msgspec.Meta(gt=0)] = 2.0


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a network is trained.

    ``epochs`` and ``max_train_steps`` end the run, whichever comes first, and so does an evaluation with a top-1 of at
    least ``stop_threshold``, or one that ``early_check``, a band of ``judging/early_check.toml``, calls hopeless. With
    ``mlperf``, a round and division such as ``4.0 closed``, the run leaves MLPerf's log and is held against its rules.
    With ``shuffled_labels``, the control, nothing can be learnt of the validation images.

    ``layout`` says what ImageNet is read from: TFRecords, or class folders of JPEGs, which a Gaudi2 decodes by itself.
    Images come to the network as ``image_type``. With ``fine_tune`` only the head is trained, on a checkpoint; unless
    one is given, the whole network is trained for ``pretrain_epochs`` first. ``profile_steps`` are the first and the
    last step of a profile. With ``disable_checkpoints`` none is written, also where there is a directory for them; with
    ``export_saved_model`` what was trained is asked again after it was written and read.
    """

    epochs: Positive
    schedule: Schedule
    momentum: Share
    weight_decay: Amount
    crop: Literal["intel", "habana", "digits"]
    epochs_between_evals: Positive = 1
    max_train_steps: Positive | None = None
    stop_threshold: Share | None = None
    early_check: str | None = None
    mlperf: str | None = None
    label_smoothing: Share = 0.0
    mixup_alpha: Amount = 0.0
    loss_scale: Positive = 1
    optimizer: Literal["momentum", "lars"] = "momentum"
    fine_tune: bool = False
    pretrain_epochs: Positive | None = None
    layout: Literal["records", "jpeg"] = "records"
    image_type: Literal["fp32", "bf16"] = "fp32"
    profile_steps: tuple[Step, Step] | None = None
    disable_checkpoints: bool = False
    export_saved_model: bool = False
    shuffled_labels: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if self.profile_steps and self.profile_steps[0] > self.profile_steps[1]:
            raise ValueError(f"Steps {self.profile_steps[0]} to {self.profile_steps[1]} cannot be profiled.")
        if self.pretrain_epochs and not self.fine_tune:
            raise ValueError("'pretrain_epochs' is for 'fine_tune', which starts from a checkpoint.")

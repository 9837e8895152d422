"""What densenb needs of a pipeline: any SD 3 pipeline of diffusers has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Pipeline(Protocol):
    """An SD 3-class pipeline, `StableDiffusion3Pipeline` or one made from it by `from_pipe`.

    Models are typed `Any`: diffusers' and transformers' classes have no types of their own.
    """

    transformer: Any
    vae: Any
    scheduler: Any
    image_processor: Any
    tokenizer: Any
    tokenizer_2: Any
    tokenizer_3: Any
    text_encoder: Any
    text_encoder_2: Any
    text_encoder_3: Any
    tokenizer_max_length: int
    vae_scale_factor: int

    @property
    def components(self) -> dict[str, Any]: ...

    @property
    def config(self) -> Any: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def do_classifier_free_guidance(self) -> bool: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any: ...

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any: ...

    def set_progress_bar_config(self, **kwargs: Any) -> None: ...

    def to(self, *args: Any, **kwargs: Any) -> Any: ...

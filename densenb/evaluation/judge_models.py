"""Detectors and CLIP from transformers, as functions of pictures and words, for the judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from densenb.evaluation.suites import batches
from densenb.plots.pictures import to_image

AT_ONCE = 16  # pictures in one forward pass


@dataclass(frozen=True)
class Boxes:
    """The boxes that a detector found for one phrase in one picture, best first.

    `box [K, 4]` x0, y0, x1, y1 in fractions of the picture; `score [K]` in [0, 1], falling.
    """

    box: Tensor
    score: Tensor


class _Model:
    """A model of transformers with its processor."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model.eval(), processor

    def to(self, device: str) -> _Model:
        self.model.to(device)
        return self


class Detector(_Model):
    """A zero-shot detector of transformers (OWL-ViT, OWLv2, Grounding DINO).

    Args:
        threshold: lowest score of a detection; by default that of transformers for this kind of
            model, 0.1 for OWL and 0.25 for Grounding DINO.
    """

    def __init__(self, model: Any, processor: Any, threshold: float | None = None):
        super().__init__(model, processor)
        self.options = {} if threshold is None else {"threshold": threshold}
        # OWL joins the texts of several pictures only if all are padded to the longest possible
        owl = model.config.model_type.startswith("owl")
        self.padding = "max_length" if owl else "longest"

    @torch.inference_mode()
    def find(self, images: Tensor, phrases: Sequence[str]) -> list[Boxes]:
        """`Boxes` of one phrase in each picture [B, 3, H, W] in [0, 1].

        Each phrase is searched for alone: it does not compete with others for a box.
        """
        found = []
        pairs = list(zip(map(to_image, images), phrases, strict=True))
        for part in batches(pairs, AT_ONCE):
            pictures, words = zip(*part, strict=True)
            inputs = self.processor(
                images=list(pictures),
                text=[[phrase] for phrase in words],
                return_tensors="pt",
                padding=self.padding,
                truncation=True,
            )
            outputs = self.model(**inputs.to(self.model.device))
            sizes = [(picture.height, picture.width) for picture in pictures]
            results = self.processor.post_process_grounded_object_detection(
                outputs, target_sizes=sizes, **self.options
            )
            for result, (height, width) in zip(results, sizes, strict=True):
                score, order = result["scores"].float().cpu().sort(descending=True)
                fractions = torch.tensor([width, height, width, height])
                box = result["boxes"].float().cpu()[order] / fractions  # (K, 4)
                found.append(Boxes(box.clamp(0, 1), score))
        return found


class Clip(_Model):
    """A CLIP of transformers: embeddings of length 1 of pictures and of texts."""

    @torch.inference_mode()
    def pictures(self, images: Sequence[Tensor]) -> Tensor:
        """[B, d] on the CPU, of pictures [3, H, W] in [0, 1]; edges beyond a square are cut."""
        parts = []
        for part in batches(images, AT_ONCE):
            pictures = list(map(to_image, part))
            inputs = self.processor(images=pictures, return_tensors="pt").to(self.model.device)
            seen = self.model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
            parts.append(self.model.visual_projection(seen).float().cpu())  # (b, d)
        return F.normalize(torch.cat(parts), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """[P, d] on the CPU."""
        inputs = self.processor(
            text=list(texts), return_tensors="pt", padding=True, truncation=True
        ).to(self.model.device)
        read = self.model.text_model(**inputs).pooler_output
        return F.normalize(self.model.text_projection(read).float().cpu(), dim=-1)


def load_detector(model: str, threshold: float | None = None) -> Detector:
    """A detector from the Hugging Face Hub or a folder.

    It is tried on a blank picture, so that a missing package is found now.

    Raises:
        ValueError: when it is missing, is not a detector, or needs another package (OWLv2 needs
            scipy or torchvision); the message says how to fix it.
    """
    detector = Detector(*_loaded(model, "AutoModelForZeroShotObjectDetection"), threshold)
    try:
        detector.find(torch.zeros(1, 3, 64, 64), ["a cat"])
    except ImportError as error:
        raise ValueError(f"{model} needs a package that is not installed: {error}") from error
    return detector


def load_clip(model: str) -> Clip:
    """A CLIP from the Hugging Face Hub or a folder; ValueError, with the fix, if it is missing."""
    return Clip(*_loaded(model, "CLIPModel"))


KINDS = {
    "AutoModelForZeroShotObjectDetection": "zero-shot detector such as "
    "google/owlv2-base-patch16-ensemble or IDEA-Research/grounding-dino-tiny",
    "CLIPModel": "CLIP such as openai/clip-vit-base-patch32",
}


def _loaded(model: str, kind: str) -> tuple[Any, Any]:
    """The weights and the processor of a model."""
    config = _from_pretrained("AutoConfig", model, kind)
    if kind == "CLIPModel" and config.model_type != "clip":  # it would load, with random weights
        raise ValueError(f"{model} is a {config.model_type}: give a {KINDS[kind]}.")
    return _from_pretrained(kind, model, kind), _from_pretrained("AutoProcessor", model, kind)


def _from_pretrained(name: str, model: str, kind: str) -> Any:
    """What a class of transformers loads; ValueError, with the fix, where that fails."""
    load = getattr(transformers, name).from_pretrained
    try:
        try:
            return load(model, local_files_only=True)  # needs no network
        except OSError:
            return load(model)
    except OSError as error:  # missing, or no network and never downloaded
        raise ValueError(
            f"{model} cannot be loaded. With a network, `hf download {model}` downloads it once; "
            "after that it works offline. Or give a folder that holds it. "
            f"A judge needs a {KINDS[kind]}."
        ) from error
    except ValueError as error:  # another kind of model
        raise ValueError(f"{model} cannot judge: give a {KINDS[kind]}. ({error})") from error

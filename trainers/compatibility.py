"""Effective or refused: what fits together, decided from descriptions alone, without importing anything.

Offers are words: the data's ("image", "points", "labels", "two_domains"), the variant's ("latent", "targets", …), the
backbones' ("generator.weights", "critic.batch_norm", …) and "hack.NAME" of every hack chosen. `needs` must all be
offered, `forbids` must not. In `needs`, "a|b" asks for either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers import plugins

WORDS = {
    "image": "images",
    "points": "points, not images",
    "labels": "labelled data",
    "two_domains": "data with two domains",
    "latent": "a variant that draws a latent",
    "targets": "a variant whose objective has real and fake targets",
    "critic": "a critic",
    "latent_critic": "a critic that sees latents, not data",
    "decoder": "a decoder",
    "generator": "a generator",
    "r1": "an objective that has an R1 penalty of its own",
    "critic.batch_norm": "batch normalisation in the critic",
    "generator.batch_norm": "batch normalisation in the generator",
}


@dataclass(frozen=True)
class Choice:
    """A plugin by name with its parameters."""

    name: str
    params: Mapping[str, Any]

    def to_json(self) -> dict[str, dict[str, Any]]:
        return {self.name: dict(self.params)}


@dataclass(frozen=True)
class Misfit:
    """`subject` ("variant", "generator", "critic", "hack.r1") does not fit, and why."""

    subject: str
    id: str
    what: str
    why: str
    hint: str


def offered(description: plugins.Description, params: Mapping[str, Any]) -> set[str]:
    """What a plugin offers with these (complete) parameters."""
    found = set(description.attributes.get("offers", ()))
    for word, conditions in description.attributes.get("offers_when", {}).items():
        if all(params.get(key) in values for key, values in conditions.items()):
            found.add(word)
    return found


def by_side(side: str, words: Iterable[str]) -> set[str]:
    """A backbone's offers on one side: "weights" -> "critic.weights"; "generator.batch_norm" is of that side alone."""
    return {
        word if "." in word else f"{side}.{word}" for word in words if "." not in word or word.startswith(f"{side}.")
    }


def data_offers(shape: Mapping[str, Any]) -> set[str]:
    """What a data set of this shape (DataShape.to_json) offers."""
    found = {shape["kind"]}
    if shape.get("num_classes"):
        found.add("labels")
    if shape.get("other"):
        found.add("two_domains")
    return found


def compatible(
    variant: Choice, backbones: Mapping[str, Choice], hacks: Sequence[Choice], shape: Mapping[str, Any] | None
) -> list[Misfit]:
    """Every misfit. Choices are complete and valid; without a shape, what depends on the data is not judged."""
    described = plugins.describe("variants", variant.name)
    offers = offered(described, variant.params)
    owns = "owns_networks" in offers
    for side, one in backbones.items():
        if not owns:
            offers |= by_side(side, offered(plugins.describe("backbones", one.name), one.params))
    offers |= {f"hack.{hack.name}" for hack in hacks}
    if shape:
        offers |= data_offers(shape)
    misfits = list(_fits("variant", f"variant {variant.name}", described, offers, shape))
    for hack in hacks:
        description = plugins.describe("hacks", hack.name)
        misfits += _fits(f"hack.{hack.name}", f"hack {hack.name}", description, offers, shape, with_=variant.name)
    if shape and not owns:
        for side, one in backbones.items():
            misfits += _sizes(side, one, shape)
    return misfits


def _fits(
    subject: str,
    title: str,
    description: plugins.Description,
    offers: set[str],
    shape: Mapping[str, Any] | None,
    with_: str = "",
) -> Iterable[Misfit]:
    data_words = {"image", "points", "labels", "two_domains"}
    against = f" with variant {with_}" if with_ else ""
    for need in sorted(description.attributes.get("needs", ())):
        alternatives = set(need.split("|"))
        if alternatives & offers or (shape is None and alternatives & data_words):
            continue
        wanted = " or ".join(WORDS.get(word, f"`{word}`") for word in sorted(alternatives))
        why = (
            "neither the data, the variant nor its backbones offer it"
            if with_
            else "the data and backbones do not offer it"
        )
        hint = (
            f"leave {title.rsplit(maxsplit=1)[-1]} out, or choose what offers it"
            if with_
            else "choose other data or another variant"
        )
        yield Misfit(subject, "incompatible", f"{title} cannot be used{against}: it needs {wanted}", why, hint)
    for word in sorted(set(description.attributes.get("forbids", ())) & offers):
        named = WORDS.get(word, f"`{word}`")
        hint = f"leave {title.rsplit(maxsplit=1)[-1]} out"
        if "batch_norm" in word:
            hint = f"set the norm of the {word.split('.')[0]}'s backbone to layer or none"
        yield Misfit(
            subject, "incompatible", f"{title} cannot be used{against}: it does not work with {named}", "", hint
        )


def _sizes(side: str, backbone: Choice, shape: Mapping[str, Any]) -> Iterable[Misfit]:
    sizes = plugins.describe("backbones", backbone.name).attributes.get("sizes", {})
    makers = [
        name
        for name in plugins.names("backbones")
        if shape["kind"] in plugins.describe("backbones", name).attributes.get("sizes", {})
    ]
    if shape["kind"] not in sizes:
        what = f"backbone {backbone.name} does not work with {shape['kind']}"
        yield Misfit(side, "backbone-kind", what, "", f"these do: {', '.join(makers)}")
        return
    limits = sizes[shape["kind"]]
    if limits is None:
        return
    least, most, multiple = limits
    height, width = shape["size"][-2:]
    if height != width or not least <= width <= most or width % multiple:
        what = f"backbone {backbone.name} cannot make {height}x{width} images"
        near = min(max(round(width / multiple) * multiple, least), most)
        why = f"it makes square images from {least} to {most}, multiples of {multiple}"
        yield Misfit(side, "image-size", what, why, f"set image_size: {near} in the prepare stage")

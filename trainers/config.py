"""The train configuration: what stands under `with` of a train stage, checked without importing torch or any plugin.

The user writes the short form (`variant: wgan_gp`, `hacks: [ema]`); `resolve` fills in the variant's and our defaults.
The canonical form (`TrainConfig.to_json`) is again a valid user form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval

from trainers import plugins, syntax
from trainers.compatibility import Choice, compatible
from trainers.forms import Fault, Form, Path, form, show, suggest

ROLES = ("generator", "critic", "autoencoder")
SIDES = ("generator", "critic")


@dataclass(frozen=True)
class Optimizer:
    """How the parts of one role are updated."""

    name: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: Annotated[float, Gt(0)] = 2e-4
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]] = (0.5, 0.999)
    eps: Annotated[float, Gt(0)] = 1e-8
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    "After the warm-up: constant, or down to `final` x lr at the last step, linearly or by a half cosine."
    final: Annotated[float, Interval(ge=0, le=1)] = 0.0
    warmup_steps: Annotated[int, Ge(0)] = 0

    @property
    def steady(self) -> bool:
        """Whether all steps have one learning rate."""
        return self.schedule == "constant" and not self.warmup_steps

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of a step (0-based)."""
        import math

        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        done = min((step - self.warmup_steps) / max(total_steps - self.warmup_steps, 1), 1.0)
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.lr * (self.final + (1 - self.final) * left)


@dataclass(frozen=True)
class Settings:
    """What is neither a plugin nor an optimizer."""

    total_steps: Annotated[int, Ge(1)] = 1500
    "Steps of the whole training; one step is every phase of the variant once."
    batch_size: Annotated[int, Interval(ge=2, le=65536)] = 64
    "Samples a step, over all workers."
    microbatch: Annotated[int, Ge(1)] | None = None
    "Samples a worker handles at once, gradients accumulated; null: its whole share."
    precision: Literal["float32", "float64", "bf16"] = "float32"
    "bf16 is autocast; parameters stay float32."
    log_every: Annotated[int, Ge(1)] = 50
    sample_every: Annotated[int, Ge(1)] | None = None
    "Steps between sample grids; null: a tenth of the training."
    checkpoint_every: Annotated[int, Ge(1)] | None = None
    "Steps between checkpoints; null: a tenth of the training, at least 100 and at most 2000."
    init: str | None = None
    "Start from these weights: models:/name@alias, or the directory of a model. Parts that fit are taken over."


@dataclass(frozen=True)
class TrainConfig:
    """A complete, checked configuration. `hacks` stand in their canonical order."""

    variant: Choice
    hacks: tuple[Choice, ...]
    generator: Choice
    critic: Choice
    optimizers: Mapping[str, Optimizer]
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        """The canonical form: JSON, every default filled in, again a valid user form."""
        return {
            "variant": self.variant.to_json(),
            "hacks": {hack.name: dict(hack.params) for hack in self.hacks},
            "backbone": {"generator": self.generator.to_json(), "critic": self.critic.to_json()},
            "optimizers": {
                role: {**asdict(optimizer), "betas": list(optimizer.betas)}
                for role, optimizer in self.optimizers.items()
            },
            **asdict(self.settings),
        }

    def plugins(self) -> tuple[tuple[str, str], ...]:
        """(kind, name) of every plugin that it names."""
        hacks = (("hacks", hack.name) for hack in self.hacks)
        backbones = {("backbones", self.generator.name), ("backbones", self.critic.name)}
        return (("variants", self.variant.name), *hacks, *sorted(backbones))


DEFAULT_HACKS = ("ema",)
KEYS = ("variant", "hacks", "backbone", "optimizers", *(f.name for f in fields(Settings)))


# --- reading the user's form --------------------------------------------------------------------------------------


@cache
def _forms(cls: type[Any]) -> dict[str, Form]:
    """Field name -> form, from the annotations (texts, since they are postponed)."""
    return {f.name: form(syntax.expression(str(f.type))) for f in fields(cls)}


def choice(value: object) -> Choice:
    """`name` or `{name: params}` -> Choice. Raises ValueError for anything else."""
    if isinstance(value, str):
        return Choice(value, {})
    if isinstance(value, Mapping) and len(value) == 1:
        name, params = next(iter(value.items()))
        if isinstance(name, str) and (params is None or isinstance(params, Mapping)):
            return Choice(name, dict(params or {}))
    raise ValueError(f"must be a name or {{name: {{parameter: value}}}}, not {show(value)}")


def choices(value: object) -> list[tuple[Path, Choice]]:
    """Hacks as a list of names and `{name: params}`, or as one mapping; each with its path."""
    if isinstance(value, Mapping):
        return [((name,), choice({name: params})) for name, params in value.items()]
    if isinstance(value, list | tuple):
        return [
            ((i, c.name) if isinstance(item, Mapping) else (i,), c)
            for i, item in enumerate(value)
            for c in [choice(item)]
        ]
    raise ValueError(f"must be a list of hacks, or a mapping from hack to parameters, not {show(value)}")


def _sides(value: object) -> dict[str, tuple[Path, Choice]]:
    """The backbone for each side, with its path; a single one serves both."""
    if isinstance(value, Mapping) and value and set(value) <= set(SIDES):
        return {
            side: ((side, c.name) if isinstance(item, Mapping) else (side,), c)
            for side, item in value.items()
            for c in [choice(item)]
        }
    one = choice(value)
    path: Path = (one.name,) if isinstance(value, Mapping) else ()
    return dict.fromkeys(SIDES, (path, one))


def check(user: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> list[Fault]:
    """Every mistake in a user's form; `facts` is the data set's metadata ({} or None: not known yet)."""
    return list(plugins.once(("check", repr((user, facts))), lambda: _check(user, facts)))


def _check(user: Mapping[str, Any], facts: Mapping[str, Any] | None) -> list[Fault]:
    faults = _check_keys(user)
    faults += _check_plugins(user)
    faults += _check_optimizers(user.get("optimizers", {}))
    if faults:
        return faults
    return _check_roles(user, facts or {}) + _check_compatible(user, facts or {})


def _check_keys(user: Mapping[str, Any]) -> list[Fault]:
    faults = []
    for key, value in user.items():
        if key not in KEYS:
            what = f"the train configuration has no key {show(key)}"
            faults.append(Fault((key,), "unknown-key", what, "", suggest(key, KEYS)))
        elif key in _forms(Settings):
            faults += _forms(Settings)[key].check(value, (key,))
    return faults


def _check_plugins(user: Mapping[str, Any]) -> list[Fault]:
    faults: list[Fault] = []
    readers: tuple[tuple[str, str, Any], ...] = (
        ("variant", "variants", lambda v: [((c.name,) if isinstance(v, Mapping) else (), c) for c in [choice(v)]]),
        ("hacks", "hacks", choices),
        ("backbone", "backbones", lambda v: list(_sides(v).values())),
    )
    for key, kind, read in readers:
        if key not in user:
            continue
        try:
            found = read(user[key])
        except ValueError as error:
            faults.append(Fault((key,), "wrong-type", f"`{key}` {error}"))
            continue
        for path, one in {str(item): item for item in found}.values():
            faults += plugins.check(kind, one.name, one.params, (key, *path))
        names = [one.name for _, one in found]
        if key == "hacks":
            faults += [
                Fault((key,), "duplicate", f"hack {n} is listed twice")
                for n in {n for n in names if names.count(n) > 1}
            ]
    return faults


def _check_optimizers(value: object) -> list[Fault]:
    if not isinstance(value, Mapping):
        return [
            Fault(("optimizers",), "wrong-type", f"`optimizers` must map a role to its optimizer, not {show(value)}")
        ]
    faults = []
    for role, given in value.items():
        path: Path = ("optimizers", role)
        if role not in ROLES:
            hint = "did you mean 'critic'?" if role == "discriminator" else suggest(role, ROLES)
            faults.append(Fault(path, "unknown-role", f"there is no role {show(role)}", "optimizers are by role", hint))
        elif not isinstance(given, Mapping):
            faults.append(Fault(path, "wrong-type", f"an optimizer must be a mapping, not {show(given)}"))
        else:
            forms = _forms(Optimizer)
            for key, item in given.items():
                if key in forms:
                    faults += forms[key].check(item, (*path, key))
                else:
                    what = f"an optimizer has no key {show(key)}"
                    faults.append(Fault((*path, key), "unknown-key", what, "", suggest(key, forms)))
    return faults


def _check_roles(user: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Fault]:
    variant = _variant(user, facts)
    offers = plugins.describe("variants", variant.name).attributes.get("offers", frozenset())
    return [
        Fault(
            ("optimizers", role),
            "no-effect",
            f"variant {variant.name} has no {role}",
            "this optimizer would do nothing",
        )
        for role in user.get("optimizers", {})
        if role not in offers
    ]


def _check_compatible(user: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Fault]:
    config = resolve(user, facts=facts, checked=True)
    where: dict[str, Path] = {"variant": ("variant",), "generator": ("backbone",), "critic": ("backbone",)}
    if "backbone" in user:
        where |= {side: ("backbone", *path) for side, (path, _) in _sides(user["backbone"]).items()}
    if "hacks" in user:
        where |= {f"hack.{one.name}": ("hacks", *path) for path, one in choices(user["hacks"])}
    found = compatible(
        config.variant, {"generator": config.generator, "critic": config.critic}, config.hacks, facts.get("shape")
    )
    return list(dict.fromkeys(Fault(where.get(f.subject, ()), f.id, f.what, f.why, f.hint) for f in found))


# --- filling in -----------------------------------------------------------------------------------------------------


def _is_points(facts: Mapping[str, Any]) -> bool:
    return bool(facts.get("shape")) and facts["shape"]["kind"] == "points"


def _variant(user: Mapping[str, Any], facts: Mapping[str, Any]) -> Choice:
    return choice(user.get("variant") or ("gan" if _is_points(facts) else "dcgan"))


def _complete(kind: str, one: Choice) -> Choice:
    return Choice(one.name, plugins.complete(kind, one.name, one.params))


def _backbones(user: Mapping[str, Any], defaults: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Choice]:
    wanted = {side: one for side, (_, one) in _sides(defaults.get("backbone", "mlp")).items()}
    chosen = dict(wanted)
    if _is_points(facts):  # a default that cannot make points gives way; what the user chose never does
        chosen = {
            side: one if "points" in plugins.describe("backbones", one.name).attributes["sizes"] else Choice("mlp", {})
            for side, one in chosen.items()
        }
    if "backbone" in user:
        for side, (_, one) in _sides(user["backbone"]).items():
            # What the variant wants of this very backbone stays, under what the user sets.
            own = wanted[side].params if wanted[side].name == one.name else {}
            chosen[side] = Choice(one.name, {**own, **one.params})
    return {side: _complete("backbones", one) for side, one in chosen.items()}


def resolve(user: Mapping[str, Any], *, facts: Mapping[str, Any] | None = None, checked: bool = False) -> TrainConfig:
    """The complete configuration: the user's values over the variant's defaults over ours.

    Raises plugins.BadParametersError where `check` finds a mistake (skipped with `checked=True`).
    """
    facts = facts or {}
    if not checked and (faults := check(user, facts)):
        raise plugins.BadParametersError(faults)
    return plugins.once(("resolve", repr((user, facts))), lambda: _resolve(user, facts))


def _resolve(user: Mapping[str, Any], facts: Mapping[str, Any]) -> TrainConfig:
    variant = _variant(user, facts)
    attributes = plugins.describe("variants", variant.name).attributes
    defaults = attributes.get("defaults", {})
    hacks = [_complete("hacks", one) for _, one in choices(user.get("hacks", defaults.get("hacks", default_hacks())))]
    backbones = _backbones(user, defaults, facts)
    return TrainConfig(
        _complete("variants", variant),
        tuple(
            sorted(
                hacks, key=lambda hack: (plugins.describe("hacks", hack.name).attributes.get("order", 50), hack.name)
            )
        ),
        backbones["generator"],
        backbones["critic"],
        {role: _optimizer(role, user, defaults) for role in ROLES if role in attributes.get("offers", ())},
        _settings(user, defaults),
    )


def spelled(user: Mapping[str, Any]) -> dict[str, Any]:
    """A form without faults, complete or not, in one spelling: names as {name: parameters}, numbers as they are used."""
    forms = {**_forms(Settings)}
    found = {key: forms[key].convert(value) if key in forms else value for key, value in user.items()}
    if "variant" in user:
        found["variant"] = _converted("variants", choice(user["variant"])).to_json()
    if "hacks" in user:
        found["hacks"] = {one.name: dict(_converted("hacks", one).params) for _, one in choices(user["hacks"])}
    if "backbone" in user:
        sides = _sides(user["backbone"]).items()
        found["backbone"] = {side: _converted("backbones", one).to_json() for side, (_, one) in sides}
    if "optimizers" in user:
        given = user["optimizers"].items()
        forms = _forms(Optimizer)
        found["optimizers"] = {role: {key: forms[key].convert(v) for key, v in one.items()} for role, one in given}
    return found


def _converted(kind: str, one: Choice) -> Choice:
    forms = {param.name: param.form for param in plugins.describe(kind, one.name).params}
    return Choice(one.name, {name: forms[name].convert(value) for name, value in one.params.items()})


def default_hacks() -> list[str]:
    """The hacks of a configuration that names none."""
    return [name for name in DEFAULT_HACKS if name in plugins.names("hacks")]


def _optimizer(role: str, user: Mapping[str, Any], defaults: Mapping[str, Any]) -> Optimizer:
    given = {**defaults.get("optimizers", {}).get(role, {}), **user.get("optimizers", {}).get(role, {})}
    return Optimizer(**{key: _forms(Optimizer)[key].convert(value) for key, value in given.items()})


def _settings(user: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    forms = _forms(Settings)
    given = {key: value for key, value in {**defaults, **user}.items() if key in forms}
    return Settings(**{key: forms[key].convert(value) for key, value in given.items()})


# --- editing the user's form (searches) -------------------------------------------------------------------------------


def merge(winner: Mapping[str, Any], explicit: Mapping[str, Any]) -> dict[str, Any]:
    """The winner of a search under what the user wrote: explicit values win, optimizers key by key."""
    merged = {**winner, **explicit}
    if "optimizers" in winner and "optimizers" in explicit:
        roles = dict.fromkeys([*winner["optimizers"], *explicit["optimizers"]])
        merged["optimizers"] = {
            role: {**winner["optimizers"].get(role, {}), **explicit["optimizers"].get(role, {})} for role in roles
        }
    return merged


def assign(user: Mapping[str, Any], path: str, value: Any, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The user's form with `value` at a dotted path.

    `optimizers.generator.lr`, `variant`, `hacks`, `hacks.r1.gamma`, `variant.wgan_gp.gp_weight`, `backbone.mlp.width`. A number
    at the end is a place in a list (`optimizers.generator.betas.0`), whose other items are those in force.
    A parameter of a plugin that is not chosen is left out: it would do nothing.
    """
    above, _, last = path.rpartition(".")
    if last.isdecimal() and above:
        items = _in_force(user, above, facts)
        if isinstance(items, list | tuple) and int(last) < len(items):
            return _assign(user, above, [value if i == int(last) else item for i, item in enumerate(items)])
    return _assign(user, path, value)


def _assign(user: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    key, *rest = path.split(".")
    if not rest:
        return {**user, key: value}
    if key == "hacks":
        return {
            **user,
            key: _assign_chosen({c.name: dict(c.params) for _, c in choices(user.get(key, []))}, rest, value),
        }
    if key in ("variant", "backbone") and rest[0] not in SIDES:
        one = choice(user[key]) if key in user else Choice("", {})
        return (
            {**user, key: _assign_chosen({one.name: dict(one.params)}, rest, value)}
            if one.name == rest[0]
            else dict(user)
        )
    inner = user.get(key, {})
    if key == "backbone" and key in user and not (isinstance(inner, Mapping) and set(inner) <= set(SIDES)):
        inner = dict.fromkeys(SIDES, inner)  # one for both, of which one side changes
    return {**user, key: _assign(inner if isinstance(inner, Mapping) else {inner: {}}, ".".join(rest), value)}


def _assign_chosen(chosen: dict[str, dict[str, Any]], path: Iterable[str], value: Any) -> dict[str, dict[str, Any]]:
    name, *rest = path
    if name not in chosen:
        return chosen
    return {**chosen, name: _assign(chosen[name], ".".join(rest), value)}


def _in_force(user: Mapping[str, Any], path: str, facts: Mapping[str, Any] | None) -> Any:
    """The value at a path, given or by default; None where there is none, or the form has a mistake."""
    if check(user, facts):
        return None
    found: Any = resolve(user, facts=facts, checked=True).to_json()
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def stated(
    user: Mapping[str, Any], searched: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The form with what it leaves out of `variant`, `hacks` and `backbone` named, where a searched path leads into it.

    `searched` are the dimensions of a space by their paths. Nothing is named where it depends on what is searched, or on data
    that are not known yet, nor in a form that has a mistake.
    """
    found, facts = dict(user), facts or {}
    missing = {path.split(".")[0] for path in searched} & {"variant", "hacks", "backbone"} - set(user)
    if "hacks" in missing and "hacks" in searched:
        found["hacks"] = default_hacks()  # subsets of hacks stand beside these
    missing = {key for key in missing if key not in searched}
    if not missing or not facts.get("shape") or check(user, facts):
        return found
    variants = [user.get("variant")]
    if "variant" in searched:
        listed = searched["variant"].get("choice") if isinstance(searched["variant"], Mapping) else None
        variants = listed if isinstance(listed, list) else []
    known = [{**user, **({"variant": one} if one else {})} for one in variants]
    plain = [resolve(one, facts=facts, checked=True) for one in known if not check(one, facts)]
    named: dict[str, set[Any]] = {
        "variant": {one.variant.name for one in plain},
        "hacks": {tuple(hack.name for hack in one.hacks) for one in plain},
        "backbone": {(one.generator.name, one.critic.name) for one in plain},
    }
    for key in missing:
        names: list[Any] = list(named[key])
        if len(names) == 1:
            found[key] = _spell(key, names[0])
    return found


def _spell(key: str, name: Any) -> Any:
    """Names of plugins as a user writes them."""
    if key == "backbone":
        return name[0] if name[0] == name[1] else dict(zip(SIDES, name, strict=True))
    return list(name) if key == "hacks" else name


def plays(variant: object, role: str, facts: Mapping[str, Any] | None = None) -> bool:
    """Whether a variant (None: the default one) has networks of a role to optimize; True where either is unknown."""
    try:
        name = _variant({"variant": variant}, facts or {}).name
    except ValueError:
        return True
    known = role in ROLES and name in plugins.names("variants")
    return not known or role in plugins.describe("variants", name).attributes.get("offers", ())

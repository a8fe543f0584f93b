"""`orchestrate explain ID`: what an error means and what to do about it."""

from __future__ import annotations

import click

from orchestrator.cli import options

PLUGIN = "`orchestrate list {}` prints what there is; a file of your own in trainers/{}/ is one more."
TEXTS: dict[str, str] = {
    # kinds of failure, as in `error[stage]`, with their exit codes
    "stage": "Exit 1. A stage failed. The line names the cause; the stage's log holds the whole trace. The same command goes on "
    "from the last checkpoint.",
    "failure": "Exit 1. A stage failed by an exception that it did not explain itself. Its log holds the whole trace.",
    "timeout": "Exit 1. A stage, or the whole run, took longer than its `timeout_s`. Its checkpoints are kept: the same "
    "command goes on from them. Raise `timeout_s`, or leave it out.",
    "out_of_memory": "Exit 1. Memory ran out. Half the microbatch (gradients accumulated) was tried once, unless losses "
    "compare the samples of a batch. Lower batch_size, take smaller networks, or give the workers more memory.",
    "bad_input": "Exit 2. The spec, an argument or the data is wrong. It is never retried, since it would fail the same way.",
    "gate": "Exit 3. A `require` of the register stage refused the model; nothing was promoted. The model is kept: loosen the "
    "requirement, or train a better one.",
    "diverged": "Exit 3. Training produced NaN or Inf. Unchanged it would again, so the same spec is not tried again: lower a "
    "learning rate, add r1 or spectral_norm, or repeat with --force STAGE.",
    "unavailable": "Exit 4. Storage, MLflow or the Ray cluster cannot be reached, or the cluster is too small. "
    "`orchestrate doctor` tries each of them.",
    "integrity": "Exit 5. Stored bytes are damaged and nothing good is left to take their place. The damaged file was moved to "
    "quarantine/ in the storage; running again makes what is missing.",
    "busy": "Exit 6. Another run holds this pipeline in this storage. Wait for it (--wait-lease SECONDS), or `orchestrate "
    "cancel` it. A dead owner's place is taken over by itself.",
    "interrupted": "Exit 130 (Ctrl-C), 143 (SIGTERM) or 129 (the terminal closed). "
    "The run saved a checkpoint and stopped; the same command goes on.",
    "cancelled": "Exit 143. Somebody stopped the run with `orchestrate cancel`, maybe from another host. It saved a "
    "checkpoint; the same command goes on.",
    "bug": "Exit 70. An exception that nobody foresaw: a bug of ours. The trace is in the file named; please report it.",
    # the YAML text
    "no-file": "The pipeline's file cannot be read. `orchestrate list pipelines` prints those in ./pipelines.",
    "syntax": "The text is no YAML. Look at the line named and the one above it: indentation, a missing colon or quote.",
    "empty": "A value that must hold something is empty.",
    "too-large": "A spec may have 1 MiB. Data does not belong into it.",
    "too-deep": "A spec may be 32 levels deep.",
    "too-many-nodes": "A spec may have 10,000 values, aliases written out. An alias of an alias multiplies.",
    "control-character": "The text holds a character that cannot be seen. Type the line again.",
    "several-documents": "A spec is one YAML document: no `---` in the middle. Make two files.",
    "directive": "YAML directives (%YAML, %TAG) are not needed and not taken; YAML 1.2 rules hold.",
    "tag": "Tags (!!python/…, !include) are not taken: a spec is data and never runs code.",
    "merge-key": "Merge keys (<<) are not taken: they hide where a value comes from. Write the values out, or use a profile.",
    "unknown-alias": "An alias (*name) stands for an anchor (&name) that is not there, or comes later.",
    "duplicate": "The same thing stands twice in a list. Remove one.",
    "duplicate-key": "A key stands twice in one mapping, and only one of them could hold. Remove one.",
    "key-not-text": "A key must be a text. Put a number in quotes.",
    "not-finite": "Infinity and NaN are no settings. Leave a limit out, or write null.",
    "huge-integer": "An integer must fit into 64 bits.",
    # keys, types and ranges
    "unknown-key": "There is no such key here; stage parameters belong under `with`, engine keys beside `uses`. "
    "`orchestrate schema` prints all keys, `orchestrate list stages -v` each stage's parameters.",
    "missing-key": "A key that has no default is not there.",
    "wrong-type": "The value has another type than the parameter. YAML 1.2: `2e-4` is a number, `on`, `yes` and `no` are texts.",
    "wrong-value": "Only one value is possible here.",
    "wrong-length": "The list has too few or too many values.",
    "out-of-range": "The value is outside of what the parameter takes; the message names the range.",
    "not-a-choice": "The value is none of those that the parameter takes; the message lists them.",
    "bad-name": "Names are lower case: a letter, then up to 39 letters, digits and underscores.",
    "no-effect": "The value would do nothing. It is refused rather than silently ignored: leave it out.",
    # plugins
    "unknown-variant": PLUGIN.format("variants", "variants"),
    "unknown-hack": PLUGIN.format("hacks", "hacks"),
    "unknown-backbone": PLUGIN.format("backbones", "backbones"),
    "unknown-dataset": PLUGIN.format("datasets", "datasets"),
    "unknown-metric": PLUGIN.format("metrics", "metrics"),
    "unknown-stage": "There is no such stage: neither in this spec (a reference, --force, --set) nor as a file in "
    "orchestrator/stages/ (`uses`). `orchestrate list stages` prints those that can be used.",
    "broken-plugin": "A plugin's file does not follow the rules of its kind (one frozen dataclass, literals as defaults), so it "
    "cannot be described. CONTRIBUTING shows a complete one of each kind.",
    "incompatible": "The variant or hack needs something that the data, the variant or a backbone does not offer, or forbids "
    "something that they do; it would do nothing, or be wrong. `orchestrate list hacks NAME` shows its needs and forbids.",
    "kind": "The variant or hack works on another kind of data (images, points).",
    "backbone-kind": "This backbone cannot make or judge this kind of data (images, points). The message lists those that can.",
    "image-size": "The backbone cannot make images of this size. Set image_size in the prepare stage, or another backbone.",
    "needs-labels": "This needs a data set with classes.",
    "not-for-points": "The parameter is about images, and the data set holds points.",
    "channels": "Images can be made grey (1) or coloured (3), no other number of channels into another.",
    "split": "A split names its parts and their shares, which add up to 1: {train: 0.8, test: 0.2}.",
    "empty-split": "The split has no samples. Give it a share in the prepare stage's `split`.",
    "unmet-need": "The metric needs something that the data set or the inputs do not offer (images, a known mixture, a features "
    "stage).",
    "wrong-features": "The features stage was trained on data of another shape than the model makes.",
    "metric-not-computed": "A gate asks for a metric that the evaluate stage does not compute. Add it to its `metrics`.",
    "unknown-value": "The metric has no value of that name. `orchestrate list metrics NAME` describes its values.",
    # stages and how they hang together
    "cycle": "Stages wait for each other in a circle. Break one input.",
    "missing-input": "The stage needs this input. Add it under `inputs`.",
    "unknown-input": "The stage has no such input. `orchestrate list stages NAME` shows its inputs.",
    "unknown-output": "The other stage has no such output. An input is `stage` or `stage.output`.",
    "unknown-reference": "An input names a stage that the spec does not have, or `warm_start` a run that is not in the storage.",
    "wrong-kind": "The input takes another kind of artifact than the other stage makes.",
    "fan-in": "Several instances of a matrix stage would arrive at an input that takes one. Give this stage the same matrix, or "
    "use an input that collects.",
    "same-cell": "Two cells of the matrix come to the same name.",
    "duplicate-cell": "A value stands twice in an axis of the matrix.",
    "too-many-cells": "A matrix may have 1,000 cells.",
    "two-sources": "Two things would give the same value; only one can hold. Remove one.",
    "too-many-workers": "The stage asks for more CPUs or GPUs than this machine has. Lower its `scale`, or join a cluster "
    "(--address).",
    # the search
    "unknown-path": "The search space names no parameter of a train configuration. Paths are dotted: optimizers.generator.lr.",
    "unknown-distribution": "A dimension is one of choice, subsets, uniform, loguniform, quniform, int, normal, conditional.",
    "contradiction": "Two parameters ask for what cannot both be done; the message says why. Leave out or change one of them.",
    "endless": "A grid runs through every value, and this dimension has no end of them. Use choice, or another searcher.",
    "fixed": "Trials are compared at equal steps, so this cannot be searched. Set it under `trial`.",
    "unknown-role": "Optimizers are by role: generator, critic, autoencoder.",
    # overrides, profiles, credentials
    "bad-set": "--set takes KEY=VALUE, for example --set stages.train.with.total_steps=4000. The value is read as YAML.",
    "bad-path": "The path is not dotted names: stages.train.with.total_steps.",
    "no-such-path": "The path leads through a value that holds no keys.",
    "unknown-profile": "The spec has no such profile.",
    "reference": "${env:NAME} is taken in credentials only: storage_options and tracking.",
    "env-not-allowed": "${env:NAME} may name only certain variables, which the message lists, so that a spec cannot read others.",
    "env-not-set": "The environment variable is not set. Export it before running.",
    "password-in-url": "A password in a URL would be stored and shared with the spec. Put it into an environment variable and "
    "write ${env:NAME}.",
    "plain-credential": "On a cluster the spec travels in a ConfigMap, which everybody in its namespace may read. Write "
    "${env:NAME}, and put the value into the namespace's Secret `storage`.",
    "missing-tracking": "With a remote storage `tracking` must say where MLflow's records go: its own database can only lie "
    "in a local one.",
}


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in TEXTS if name.startswith(incomplete)]


@click.command(short_help="What an error means, and what to do about it.")
@click.argument("error_id", required=False, metavar="ERROR-ID", shell_complete=_complete)
@options.as_json
def command(error_id: str | None, as_json: bool) -> None:
    """Explain the error that is printed as error[ERROR-ID], or list them all.

    \b
    orchestrate explain unknown-key
    """
    if error_id is None:
        if as_json:
            options.emit(errors=TEXTS)
        else:
            options.echo(options.table(list(TEXTS.items())))
        return
    name = error_id.strip().removeprefix("error").strip("[]: ")
    if name not in TEXTS:
        from difflib import get_close_matches

        from orchestrator.errors import BadInput

        near = get_close_matches(name, TEXTS, n=1)
        raise BadInput(
            f"there is no error {name!r}",
            hint=f"did you mean {near[0]}?" if near else "`orchestrate explain` lists them",
        )
    if as_json:
        options.emit(id=name, text=TEXTS[name])
    else:
        options.echo(f"{name}: {TEXTS[name]}")

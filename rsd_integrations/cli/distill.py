"""`rsd distill-exits`: heads on middle layers of a reward model, so that most steps need only some of the layers."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from rsd_core import ConfigurationError, DraftOnly, Settings, SpecError, as_prompt, load
from rsd_core.control_characters import visible
from rsd_core.registry import check_spec, options_of, parse_spec
from rsd_integrations.cli.terminal import Terminal, plain
from rsd_integrations.evaluation.scoring import Solution, is_judged, read_solutions, solution_of
from rsd_integrations.output_files import check_output, write_output

TEMPERATURES = (0.0, 0.6, 0.9)
"""Temperatures of the embedded family's solutions: a third of the problems each."""

STEPS = 6
"""Minimum number of steps of a problem's solutions, on average over a hundred problems."""


def distill_exits(
    model: Annotated[str, typer.Argument(metavar="SPEC", help="The reward model: prm:MODEL or embedded:prm.")],
    out: Annotated[Path, typer.Argument(help="File of the exits, .safetensors.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Solutions as for `rsd score`, like those it will judge: some thousand steps, many of them "
            "wrong. By default, for embedded:prm, solutions of the embedded drafter and target."
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="The policy's threshold, in (0, 1).")] = 0.5,
    agreement: Annotated[
        float, typer.Option(help="Least share of steps with the full model's verdict, in (0, 1), with 95 % confidence.")
    ] = 0.99,
    layers: Annotated[
        str | None, typer.Option(help="Layers below each head: 6,12,18. By default six heads, from a quarter on.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=1, help="Problems that the embedded family solves, without --data; 2600 by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of those problems, and of training.")] = 0,
) -> None:
    """Train exits for a reward model: it then stops at a middle layer if two heads agree about the threshold.

    Example: `rsd distill-exits prm:Qwen/Qwen2.5-Math-PRM-7B exits.safetensors --data solutions.jsonl`, then
    `rsd run --verifier prm,exits=exits.safetensors:Qwen/Qwen2.5-Math-PRM-7B`
    """
    checkpoint, options = _checkpoint(model)
    if out.suffix != ".safetensors":
        raise ConfigurationError(f"{out} is not a name of a safetensors file; name it {out}.safetensors")
    if (out.parent / "config.json").exists():
        raise ConfigurationError(f"{out} is inside a checkpoint, where it would count as weights; use another folder")
    check_output(out, "the file of exits")
    places = _places(layers)
    if data is None and model.partition(":")[2] != "prm":
        raise ConfigurationError(f"{model} needs --data: solutions as for `rsd score`, like those it will judge")
    if data is not None and n is not None:
        raise ConfigurationError(f"--n {n} only applies without --data, all of whose solutions are used; remove it")
    given = None if data is None else read_solutions(data)
    problems = 2600 if n is None else n
    from rsd_integrations.huggingface import distilling, early_exit

    distilling.check_request(threshold, agreement, places, _depth(checkpoint))
    if given is None and problems < (least := ceil(distilling.least_steps(agreement) / STEPS)):
        raise ConfigurationError(
            f"--n {problems} is too few problems to show --agreement {agreement}; give at least {least}, better 2600"
        )
    terminal = Terminal(stderr=True)
    solutions = _embedded(problems, seed) if given is None else given
    exits = distilling.distil(
        checkpoint,
        [[at for at in solution.paths() if is_judged(*at)] for solution in solutions],
        threshold=threshold,
        agreement=agreement,
        layers=places,
        seed=seed,
        told=lambda line: terminal.print(plain(line, "dim")),
        **options,
    )
    write_output(out, lambda file: early_exit.save(exits, file))
    rule = exits.rule
    kind, _, rest = model.partition(":")
    Terminal().print(
        plain(
            f"written to {out}: --verifier {visible(kind)},exits={out}:{visible(rest)}\n"
            f"heads above {', '.join(map(str, rule.layers))} layers, margin {rule.margin:.2f} in log odds about "
            f"{rule.threshold}; on {rule.steps} held-out steps {rule.agreement:.1%} of the verdicts are the full "
            f"model's, of those below the threshold {rule.kept_rejections:.1%}, at {rule.share:.1%} of the layers"
        )
    )


def _checkpoint(spec: str) -> tuple[str, dict[str, Any]]:
    """The folder or hub id of a reward model, and the options of its spec."""
    backend, rest = parse_spec(spec, "verifier")
    check_spec(spec)
    options = options_of(spec)
    if options.pop("exits", None) is not None:
        raise SpecError(f"{spec!r} already has exits; remove them to distil others")
    if backend.kind == "prm" and backend.extra == "huggingface":
        return rest, options
    if backend.kind == "embedded":
        from rsd_integrations.embedded.models import folder_of

        folder = folder_of(rest)
        if rest == "prm":
            return str(folder), options
    raise SpecError(f"{spec!r} cannot have exits: they are for transformers reward models, prm:MODEL or embedded:prm")


def _depth(checkpoint: str) -> int | None:
    """The number of layers of a checkpoint, if its configuration is local and says so."""
    try:
        layers = json.loads((Path(checkpoint) / "config.json").read_bytes()).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError):  # on the hub, or the loader will refuse it
        return None
    return layers if isinstance(layers, int) else None


def _places(layers: str | None) -> tuple[int, ...] | None:
    if layers is None:
        return None
    try:
        return tuple(int(part) for part in layers.split(","))
    except ValueError:
        raise ConfigurationError(f"--layers {layers!r} is not a list of numbers; write 6,12,18") from None


def _embedded(n: int, seed: int) -> list[Solution]:
    """Solutions of the embedded drafter and, for every fourth problem, of the target."""
    from rsd_integrations.evaluation.tasks import find_task

    items = find_task({"kind": "embedded", "split": "dev"}).draw(n, seed)
    solutions: list[Solution] = []
    with Progress(console=Terminal(stderr=True), transient=True) as bar:
        task = bar.add_task("solving problems", total=n)
        for spec, chosen in (("embedded:draft", range(n)), ("embedded:target", range(0, n, 4))):
            drafter = load(spec, role="drafter")
            for third, temperature in enumerate(TEMPERATURES):
                some = [items[i] for i in chosen if i % len(TEMPERATURES) == third]
                decoder = DraftOnly(drafter=drafter, settings=Settings(temperature=temperature, seed=seed))
                for item, result in zip(some, decoder.run_many([item.prompt for item in some]), strict=True):
                    bar.advance(task)
                    found = solution_of(as_prompt(item.prompt), result.text)
                    solutions += [] if found is None else [found]
    return solutions

"""`bertcompress run`: what is wrong with the words comes before torch; then the run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bertcompress.cli.common import DataDir, TaskName, hush, out, say, volume
from bertcompress.cli.task import Label, Separator, Text, Texts, Train, Validation, own_task

__all__ = ["RunCommand", "run"]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override, such as methods.finetune.epochs=1; see below"),
]


def run(
    recipe: Annotated[str, typer.Argument(help="Name in the catalogue, or a YAML file")],
    out_folder: Annotated[Path, typer.Option("--out", help="Run folder; must not exist yet")],
    model: Annotated[str | None, typer.Option(help="Instead of the recipe's model")] = None,
    task: TaskName = None,
    texts: Texts = None,
    train: Train = None,
    validation: Validation = None,
    text: Text = None,
    label: Label = None,
    label_separator: Separator = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's seed")] = None,
    set_: Overrides = None,
    controls: Annotated[
        bool, typer.Option("--no-controls", help="Leave out the controls of the methods")
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="Smaller model of others to hold beside the result; may be given several times",
        ),
    ] = None,
    data_dir: DataDir = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from the store")] = False,
) -> None:
    """Compress a model as a recipe says, and leave a run folder with everything."""
    overrides = [*(set_ or ()), *(["measure.controls=false"] if controls else ())]
    if against:
        overrides.append(f"measure.against={json.dumps(against)}")
    fields = {
        "model": model,
        "task": own_task(task, train, validation, text, label, label_separator, texts),
        "seed": seed,
        "revision": revision,
    }
    main_rank = os.environ.get("RANK", "0") == "0"
    check_words(recipe, overrides, fields, out_folder if main_rank else None, resume, fresh)
    hush()
    from bertcompress.recipe import Recipe
    from bertcompress.report import print_report
    from bertcompress.runs.run import run as go

    done = go(
        Recipe.load(recipe, overrides, **fields),
        out_folder,
        resume=resume,
        fresh=fresh,
        data_dir=data_dir,
        say=say if main_rank else _silent,
        progress=False if volume.quiet or not main_rank else None,
    )
    if main_rank:
        print_report(done.report, out)
        out.print(f"\n{done.layout.report_page}  the report with its figures", highlight=False)
        out.print(f"{done.folder}/model        loads as its card says", highlight=False)


def check_words(
    recipe: str,
    overrides: list[str],
    fields: dict[str, Any],
    out_folder: Path | None,
    resume: bool,
    fresh: bool,
) -> None:
    """Raise for what is wrong with recipe, task, the user's files or the folder, without torch."""
    from bertcompress.data.local import check_local
    from bertcompress.draft import Draft
    from bertcompress.runs.folder import check_out
    from bertcompress.support.machine import check_temporary

    check_temporary()  # importing torch wants one
    draft = Draft.load(recipe, overrides, **fields)
    task = draft.resolved_task()
    if out_folder is not None:
        check_out(out_folder, draft.to_yaml(), resume=resume, fresh=fresh)
    check_local(task)


def _silent(_: str) -> None:
    return None


class RunCommand(TyperCommand):
    """`run`, whose help ends with an example, the recipes, and which settings there are."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write them."""
        from bertcompress.draft import Draft, Measuring
        from bertcompress.methods import METHODS
        from bertcompress.methods.settings import settings_class, settings_named
        from bertcompress.support.catalogue import list_names, read_yaml, resolve

        shared = settings_named("bertcompress.training.settings", "TrainSettings").model_fields
        with formatter.section("Example"):
            formatter.write_text(
                "bertcompress run small --train rows.csv --text comment --label topic "
                "--set methods.prune_structured.keep=0.5 --out runs/topics"
            )
        with formatter.section("Recipes"):
            formatter.write_dl(
                [(n, str(read_yaml(resolve("recipes", n))["description"]))
                 for n in list_names("recipes")]
            )  # fmt: skip
        with formatter.section("Settings for --set; `bertcompress show METHOD` describes them"):
            rows = [("of the run", ", ".join(n for n in Draft.model_fields if n != "description"))]
            rows.append(("measure.", ", ".join(Measuring.model_fields)))
            for key in METHODS:
                fields = settings_class(key).model_fields
                own = [name for name in fields if name not in shared]
                trains = ["those of training"] if len(own) < len(fields) else []
                rows.append((f"methods.{key}.", ", ".join([*own, *trains])))
            rows.append(("of training", ", ".join(shared)))
            formatter.write_dl(rows)
        with formatter.section("A method is named by its key, or by its place in the recipe"):
            formatter.write_text(
                "methods.finetune.epochs=1, methods.0.epochs=1. `bertcompress show RECIPE` prints "
                "a recipe, `bertcompress copy RECIPE FILE` copies it to be edited."
            )

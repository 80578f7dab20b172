"""The component that adds the entities of a dbt project to a Dagster project."""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import yaml
from dagster.components.component_scaffolding import scaffold_component
from dagster.components.utils.project_paths import get_local_state_path
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import BaseModel, Field

from embeddings_pipeline.assets.factory import build_embedding_defs
from embeddings_pipeline.assets.options import POOL
from embeddings_pipeline.errors import ConfigurationError

_DBT_COMPONENT = "dagster_dbt.DbtProjectComponent"
_MANIFEST = Path("target", "manifest.json")


class DbtComponentOrProject(dg.Model):
    """Where the manifest comes from: the folder of a `DbtProjectComponent` below `defs`, or the
    arguments of a `DbtProject`."""

    component: str | None = None
    project_dir: str | None = None
    target_path: str | None = None
    profiles_dir: str | None = None
    profile: str | None = None
    target: str | None = None


def _resolve_manifest(context: dg.ResolutionContext, model: Any) -> Any:
    """A path, a DbtProject, or the name of a component that is loaded with the definitions."""
    if isinstance(model, str | Path):
        return context.resolve_source_relative_path(str(model))
    if not isinstance(model, DbtComponentOrProject):
        # an object that a template variable gave
        return model
    given = {
        key: context.resolve_value(value) for key, value in model.model_dump().items() if value
    }
    if ("component" in given) == ("project_dir" in given):
        raise ConfigurationError(
            "manifest needs one of component (the folder of your DbtProjectComponent below defs)"
            " and project_dir (the folder of your dbt project); or write the path of a"
            " manifest.json in its place"
        )
    if "component" in given:
        if others := sorted(given.keys() - {"component"}):
            raise ConfigurationError(
                f"manifest: {', '.join(others)} does not go with component, which has its own"
            )
        return ComponentPath(given["component"])
    from dagster_dbt import DbtProject

    directory = context.resolve_source_relative_path(given.pop("project_dir"))
    return DbtProject(directory, **given)


def _resolve_settings(context: dg.ResolutionContext, settings: Any) -> dict[str, Any]:
    """The settings, with `{env: NAME}` as the variable that is read when a run starts."""
    if not isinstance(settings, Mapping):
        raise ConfigurationError("settings must be a mapping, as {pgvector_schema: features}")
    resolved = {name: context.resolve_value(value) for name, value in settings.items()}
    return {
        name: dg.EnvVar(value["env"])
        if isinstance(value, Mapping) and set(value) == {"env"}
        else value
        for name, value in resolved.items()
    }


def _resolve_function(context: dg.ResolutionContext, value: Any) -> Any:
    """A function, or the one that `package.module.function` names."""
    if not isinstance(value, str):
        return value
    module, _, name = value.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"on_failure is {value!r}: there is no such function ({error}): write it as"
            " package.module.function"
        ) from error


@dataclass(frozen=True)
class ComponentPath:
    """The folder of a component below the project's `defs`."""

    path: str


class ScaffoldParams(BaseModel):
    """The options of `dg scaffold defs`."""

    manifest: str | None = Field(
        None, description="The path of the manifest.json; by default that of the dbt project found."
    )


class EmbeddingsComponentScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes a defs.yaml over the dbt project that the Dagster project has."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """The options of the command."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the file. Raises ConfigurationError where no dbt project is found."""
        root = request.project_root or Path.cwd()
        given = request.params.manifest
        manifest: Any = _below_root(root, Path(given)) if given else _found_manifest(root)
        if manifest is None:
            raise ConfigurationError(
                f"no dbt project and no {_DBT_COMPONENT} below {root}: name the manifest with"
                " --manifest path/to/target/manifest.json"
            )
        scaffold_component(request, {"manifest": manifest})


def _found_manifest(root: Path) -> Any:
    """The component of a dbt project, or the manifest of a dbt project in the folder."""
    for defs_yaml in _files(root, {"defs.yaml", "defs.yml"}):
        documents = [d for d in yaml.safe_load_all(defs_yaml.read_text()) if isinstance(d, dict)]
        if any(document.get("type") == _DBT_COMPONENT for document in documents):
            _, _, path = defs_yaml.parent.as_posix().rpartition("/defs/")
            return {"component": path}
    for project in _files(root, {"dbt_project.yml"}):
        return _below_root(root, project.parent / _MANIFEST)
    return None


def _files(root: Path, names: set[str]) -> Iterator[Path]:
    """Files of these names, the shallowest first; not in hidden folders and what tools write."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            f
            for f in folders
            if f not in ("target", "dbt_packages", "node_modules", "venv") and not f.startswith(".")
        ]
        found += [Path(folder, name) for name in sorted(names & {*files})]
    yield from sorted(found, key=lambda path: (len(path.parts), path))


def _below_root(root: Path, path: Path) -> str:
    return "{{ project_root }}/" + Path(os.path.relpath(path, root)).as_posix()


@dg.scaffold_with(EmbeddingsComponentScaffolder)
@dataclass
class EmbeddingsComponent(dg.Component, dg.Resolvable):
    """Keeps pgvector in step with the entities that a dbt project declares.

    Its attributes are the arguments of `build_embedding_defs`:

        type: embeddings_pipeline.EmbeddingsComponent
        attributes:
          manifest: {component: dbt}   # the folder of your DbtProjectComponent
    """

    manifest: Annotated[
        Any,
        dg.Resolver(
            _resolve_manifest,
            model_field_type=str | DbtComponentOrProject,
            description="The manifest of the dbt project: its path, {component: FOLDER} with the"
            " folder of a DbtProjectComponent below defs, or {project_dir: FOLDER} and the other"
            " arguments of a DbtProject.",
            examples=[{"component": "dbt"}, "{{ project_root }}/dbt/target/manifest.json"],
        ),
    ]
    entities: Annotated[
        list[str] | None,
        dg.Resolver.default(description="The names of the entities; all by default."),
    ] = None
    select: Annotated[
        str | None,
        dg.Resolver.default(
            description="The models of the entities, as a dbt selection.", examples=["tag:search"]
        ),
    ] = None
    exclude: Annotated[
        str | None, dg.Resolver.default(description="Models to leave out, as a dbt selection.")
    ] = None
    translation: Annotated[
        TranslationFn[Mapping[str, Any]] | None,
        TranslationFnResolver(template_vars_for_translation_fn=lambda node: {"node": node}),
    ] = None
    translator: Annotated[
        Any,
        dg.Resolver.default(
            model_field_type=str,
            description="A DagsterDbtTranslator, as a template variable; by default that of the"
            " component of the dbt project.",
            examples=["{{ translator }}"],
        ),
    ] = None
    name: Annotated[
        str,
        dg.Resolver.default(
            description="The key of the resource and the beginning of the names of ops; jobs and"
            " schedules contain it. Two components in one code location need two names."
        ),
    ] = "embeddings"
    key_prefix: Annotated[
        str | Sequence[str],
        dg.Resolver.default(description="Stands before each asset key.", examples=["warehouse"]),
    ] = ()
    group: Annotated[
        str | None,
        dg.Resolver.default(
            description="The group of all assets; by default each entity is a group."
        ),
    ] = None
    partitions_per_run: Annotated[
        int | None,
        dg.Resolver.default(
            description="How many partitions a run of a backfill takes; all by default."
        ),
    ] = None
    default_status: Annotated[
        str,
        dg.Resolver.default(
            description="RUNNING or STOPPED: how schedules and sensors begin.",
            examples=["RUNNING"],
        ),
    ] = "STOPPED"
    executor: Annotated[
        Any,
        dg.Resolver.default(
            model_field_type=str,
            description="Executes the jobs: in_process, multiprocess, default (that of the code"
            " location), or an ExecutorDefinition as a template variable.",
        ),
    ] = "in_process"
    pool: Annotated[
        str | None,
        dg.Resolver.default(description="The concurrency pool of the runs that encode."),
    ] = POOL
    op_tags: Annotated[
        dict[str, Any] | None,
        dg.Resolver.default(description="Tags of each op.", examples=[{"team": "search"}]),
    ] = None
    settings: Annotated[
        dict[str, Any] | None,
        dg.Resolver(
            _resolve_settings,
            model_field_type=dict[str, Any],
            description="Values that replace those of the environment, by the variable's name in"
            " lower case; {env: NAME} is read when a run starts.",
            examples=[{"pgvector_schema": "features", "pgvector_url": {"env": "FEATURES_URL"}}],
        ),
    ] = None
    on_failure: Annotated[
        Callable[..., object] | None,
        dg.Resolver(
            _resolve_function,
            model_field_type=str,
            description="A function that is called with a RunFailure for each run that failed, or"
            " whose checks failed.",
            examples=["my_project.alerts.send"],
        ),
    ] = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the entities."""
        arguments = {field: getattr(self, field) for field in self.__dataclass_fields__}
        targets: list[Path] = []
        if isinstance(self.manifest, ComponentPath):
            # in development this writes the manifest
            context.build_defs(self.manifest.path)
            component: Any = context.load_component(self.manifest.path)
            arguments["manifest"] = component
            if not hasattr(component, "dbt_project"):
                raise ConfigurationError(
                    f"manifest.component is {self.manifest.path!r}: that is a"
                    f" {type(component).__name__}, not a DbtProjectComponent"
                )
            # the component builds a copy of the project
            state = get_local_state_path(component.defs_state_config.key, context.project_root)
            targets = [state.parent / "project" / component.dbt_project.target_path]
        return build_embedding_defs(**arguments, targets=targets)

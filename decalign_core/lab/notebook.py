"""Runs through a notebook: what of a configuration it can be given, and how it is executed.

A notebook makes its configuration of its parameters alone. What they stand for is compared with what is wanted before
anything runs, so that no setting is dropped on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decalign_core.lab.experiment import VARIANTS, ExperimentConfig, configure, differences
from decalign_core.lab.presets import preset

_CHOICE = ("dataset", "protocol", "text_encoder", "fine_tune")  # of the data, by which a preset is found
_SETTINGS = {name: f"data.{name}" for name in (*_CHOICE, "fold")} | {"seed": "training.seed"}


@dataclass(frozen=True)
class Notebook:
    """A notebook that keeps its run in a folder that it is given.

    Attributes:
        path: its file.
        names: its parameters.
    """

    path: Path
    names: frozenset[str]

    @classmethod
    def read(cls, path: str | Path) -> Notebook:
        """The notebook in a file.

        Raises:
            ValueError: for another file than a notebook, and one without the parameters ``seed`` and ``run_dir``.
            ImportError: where papermill is not installed.
        """
        if not Path(path).is_file() or Path(path).suffix != ".ipynb":
            raise ValueError(f"notebook: wanted a file that ends in .ipynb, got {path}")
        try:
            import papermill
        except ImportError:
            raise ImportError('--notebook needs papermill: pip install "decalign-core[sweep]"') from None
        try:
            names = frozenset(papermill.inspect_notebook(str(path)))
        except Exception as error:  # what is no notebook raises anything
            raise ValueError(f"notebook: wanted a Jupyter notebook, got {path} ({type(error).__name__})") from None
        if not {"seed", "run_dir"} <= names:
            wanted = "one with the parameters seed and run_dir, the folder that keeps its run"
            raise ValueError(f"notebook: wanted {wanted}, got {path} with {', '.join(sorted(names)) or 'none'}")
        return cls(Path(path), names)

    def parameters(
        self, config: ExperimentConfig, preset_name: str = "default", settings: Collection[str] = ()
    ) -> dict[str, Any]:
        """What it is given for a configuration, the folder aside: those of its parameters that stand for a setting.

        Args:
            config: the configuration.
            preset_name: the preset that it is a change of.
            settings: dotted names of what was changed; the last part is the name of the parameter.
        """
        given = {"profile": "full", "settings": preset_name, "variant": config.variant}
        given |= {"device": config.training.device}
        if config.data.dataset != "synthetic":  # which lies in no folder
            given["data_dir"] = str(Path(config.data.root).resolve())
        given |= {name: _value(config, key) for name, key in self._keys(settings).items()}
        given["fold"] = -1 if config.data.fold is None else config.data.fold
        return {name: value for name, value in given.items() if name in self.names}

    def missing(
        self, config: ExperimentConfig, preset_name: str = "default", settings: Collection[str] = ()
    ) -> list[str]:
        """The settings of a configuration, by dotted name, that it would not have from :meth:`parameters`."""
        given = self.parameters(config, preset_name, settings)
        base = preset(given.get("settings", "default"), **{name: given[name] for name in _CHOICE if name in given})
        keys = self._keys(settings)
        told = {key: _value(config, key) for key in keys.values()}
        if "variant" in self.names:
            row = config.variant if config.variant in VARIANTS else "full"
            told = VARIANTS[row] | {"variant": row} | told
        elif settings and all(key in keys.values() for key in settings):  # by them the notebook names the row
            told["variant"] = config.variant
        elsewhere = config.data.dataset != "synthetic" and "data_dir" not in self.names
        return [*differences(configure(told, base), config), *(["data.root"] if elsewhere else [])]

    def _keys(self, settings: Collection[str]) -> dict[str, str]:
        named = {key.rpartition(".")[2]: key for key in settings} | _SETTINGS
        return {name: key for name, key in named.items() if name in self.names}


def _value(config: ExperimentConfig, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def placed(text_encoder: str) -> dict[str, str]:
    """The change that names a text encoder's folder from the root: a notebook runs in a folder of its own."""
    there = text_encoder and Path(text_encoder).is_dir()
    return {"data.text_encoder": str(Path(text_encoder).resolve())} if there else {}


def execute(path: str | Path, folder: Path, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook in its own folder by papermill; it is kept, with all that it shows, beside its run.

    What is raised in it ends the execution with papermill's own error.
    """
    import papermill

    path, folder = Path(path).resolve(), folder.resolve()
    given = dict(parameters) | {"run_dir": str(folder)}
    quiet = {"progress_bar": False, "log_output": False}
    papermill.execute_notebook(str(path), str(folder / path.name), parameters=given, cwd=str(path.parent), **quiet)

"""Upload a model to a hub: weights, model card, and evaluation results.

model -> export in a scratch folder (or an exported folder as it is) -> files to upload -> one commit
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from vistune.errors import CheckpointError, HubError, RecipeError, reason_of
from vistune.files import read_json, read_json_if_there, read_text, write_atomic
from vistune.interop.export import export_model
from vistune.interop.folders import is_hub_name
from vistune.interop.model_card import write_card
from vistune.runs.folder import find_model, is_vistune_folder

NAMES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.gguf", "Modelfile", "README.md")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
DEFAULT_LAYOUT = "llava-hf"
CARD, RESULTS = "README.md", ".eval_results"
DATASET = re.compile(r"(?P<evaluation>[^=]+)=(?P<dataset>[^/:@]+/[^/:@]+)(:(?P<task>[^:@]+))?(@(?P<metric>[^:@]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """How to upload a model.

    Attributes:
        layout: Layout in which a run or a model folder of vistune is exported first; None is `llava-hf`.
        merge: Merge the adapters of a run or a model folder of vistune into its weights.
        license_name: The licence's name on the hub, such as `apache-2.0`.
        results: Evaluations for the hub's leaderboards: `EVALUATION=OWNER/DATASET[:TASK][@METRIC]`.
        private: Create the repository as private.
        revision: Branch to upload to; None is the default branch.
        dry_run: Only list the files.
        endpoint: Address of the hub. Default: the one that huggingface_hub uses (HF_ENDPOINT).
        token: Access token. Default: the one that huggingface_hub has stored.
    """

    layout: str | None = None
    merge: bool = False
    license_name: str | None = None
    results: tuple[str, ...] = ()
    private: bool = False
    revision: str | None = None
    dry_run: bool = False
    endpoint: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class PushResult:
    """The uploaded files, or those that would be uploaded.

    Attributes:
        repo: The repository.
        files: Bytes of each file, by its name in the repository.
        skipped: Files of the folder that are not uploaded.
        url: Address of the commit; None after a dry run.
        card: Text of the model card.
    """

    repo: str
    files: Mapping[str, int]
    skipped: tuple[str, ...]
    url: str | None
    card: str

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `vistune push --json` prints it."""
        return {**asdict(self), "files": dict(self.files), "skipped": list(self.skipped)}


def push_model(model: Path, repo: str, options: PushOptions) -> PushResult:
    """Upload a run, a model folder, or a folder that `export` wrote.

    Raises:
        RecipeError: If something cannot be uploaded, before anything is sent.
        HubError: If the hub refuses the upload or cannot be reached.
    """
    refuse_name(repo)
    with ExitStack() as stack:
        source = find_model(model) if is_vistune_folder(model) else None
        if source is not None and options.layout == "peft":
            raise RecipeError(
                "--layout peft: adapters need a base model on the hub",
                "run vistune export MODEL OUT --layout peft --base OWNER/NAME, then push OUT",
            )
        results = evaluation_results(source, options.results)
        folder = model
        if source is None:
            refuse_export_options(model, options)
        else:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vistune-push-"))
            folder = Path(scratch) / "model"
            export_model(source, folder, layout=options.layout or DEFAULT_LAYOUT, merge=options.merge)
            write_atomic(folder / CARD, write_card(source, options.license_name))
        files, skipped = files_to_upload(folder)
        refuse_local_base(folder)
        card = read_text(folder / CARD) if CARD in files else write_card(folder, options.license_name)
        contents: dict[str, Path | bytes] = {name: folder / name for name in files}
        contents |= {CARD: card.encode(), **{name: text.encode() for name, text in results.items()}}
        sizes = {name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in contents.items()}
        url = None if options.dry_run else _commit(repo, contents, options)
    return PushResult(repo, dict(sorted(sizes.items())), tuple(skipped), url, card)


def refuse_name(repo: str) -> None:
    """Raise RecipeError if the hub does not accept the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, without __all__

    try:
        validate_repo_id(repo)
        is_valid = repo.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise RecipeError(
            f"{repo!r} is not OWNER/NAME",
            "use Latin letters, digits, -, _ and . (no -- or .., no .git at the end), such as my-name/my-model",
        )


def refuse_export_options(folder: Path, options: PushOptions) -> None:
    """Raise RecipeError for options that have no effect on a folder that is uploaded as it is."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder", "check the path")
    export_options = {"--layout": options.layout is not None, "--merge": options.merge}
    if names := [name for name, is_set in export_options.items() if is_set]:
        raise RecipeError(
            f"{', '.join(names)}: {folder} is not a run or a model folder of vistune, so it is uploaded unchanged",
            "remove the option, or push the run",
        )
    if options.license_name is not None and (folder / CARD).is_file():
        raise RecipeError(
            f"--license: {folder / CARD} names the licence already", "edit it there, or push the run instead"
        )


def files_to_upload(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of a folder's files that are uploaded, and of those that are not.

    Raises RecipeError if the folder has no weights, or weights in a form that can run code when it is loaded.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if pickled := [name for name in names if name.endswith(PICKLES)]:
        raise RecipeError(
            f"{folder / pickled[0]}: a pickle, which can run code when it is loaded; only safetensors and GGUF are "
            "uploaded",
            "export the model again: vistune export MODEL OUT --layout llava-hf",
        )
    chosen = [name for name in names if any(Path(name).match(pattern) for pattern in NAMES)]
    if not any(name.endswith((".safetensors", ".gguf")) for name in chosen):
        raise RecipeError(f"{folder}: contains no safetensors", "name a run, a model folder or an exported folder")
    return chosen, [name for name in names if name not in chosen]


def refuse_local_base(folder: Path) -> None:
    """Raise RecipeError if adapters name a base on this machine, which nobody else can load."""
    config = folder / "adapter_config.json"
    if not config.is_file():
        return
    base = str(read_json(config).get("base_model_name_or_path") or "")
    if not is_hub_name(base):
        raise RecipeError(
            f"{config}: the base model {Path(base).name!r} is on this machine, so others cannot load the adapters",
            "export with --base OWNER/NAME of a model on the hub, or push the run with --merge",
        )


def evaluation_results(source: Path | None, given: Sequence[str]) -> dict[str, str]:
    """Return files of the hub's format for evaluation results, by name in the repository.

    Raises RecipeError if an evaluation does not exist, or has several metrics and none is named.
    """
    if given and source is None:
        raise RecipeError("--result needs a run of vistune, which has evaluations", "name the run, not its export")
    files = {}
    for text in given:
        match = DATASET.fullmatch(text)
        if match is None:
            raise RecipeError(
                f"--result {text!r}: not EVALUATION=OWNER/DATASET[:TASK][@METRIC]",
                "for example pope=lmms-lab/POPE:default@f1",
            )
        assert source is not None
        run = source.parent.parent if source.parent.name == "checkpoints" else source
        name = match["evaluation"]
        path = run / "evals" / f"{name}.json"
        result = read_json_if_there(path)
        if not isinstance(result, dict) or not result.get("metrics"):
            known = ", ".join(sorted(each.stem for each in path.parent.glob("*.json"))) or "none"
            raise RecipeError(f"{path}: no evaluation with metrics", f"evaluations of this run: {known}")
        files[f"{RESULTS}/{name}.yaml"] = _result_file(result, match, text)
    return files


def _result_file(result: Mapping[str, Any], match: re.Match[str], text: str) -> str:
    """Return the file of one evaluation."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    metrics, metric = result["metrics"], match["metric"]
    if metric is None and len(metrics) > 1:
        raise RecipeError(
            f"--result {text}: the evaluation has several metrics", f"add @ and one of {', '.join(metrics)}"
        )
    metric = metric or next(iter(metrics))
    if metric not in metrics:
        raise RecipeError(f"--result {text}: no metric {metric!r}", f"metrics: {', '.join(metrics)}")
    entry = EvalResultEntry(
        dataset_id=match["dataset"], task_id=match["task"] or "default", value=metrics[metric],
        notes=_notes(result, metric),
    )  # fmt: skip
    return str(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True))


def _notes(result: Mapping[str, Any], metric: str) -> str:
    """Return metric, interval, blind conditions and number of questions in one line."""
    notes = [f"{metric} by vistune's scorer, {result.get('count', 'unknown number of')} questions"]
    for condition in ("with_image", "without_image", "wrong_image"):
        estimate = result.get("intervals", {}).get(condition)
        if isinstance(estimate, dict):
            low, high = 100 * estimate["low"], 100 * estimate["high"]
            interval = f" ({low:.1f} to {high:.1f})" if estimate.get("has_interval", True) else ""
            notes.append(f"accuracy {condition.replace('_', ' ')} {100 * estimate['value']:.1f} %{interval}")
    return "; ".join(notes)


def _commit(repo: str, contents: Mapping[str, Path | bytes], options: PushOptions) -> str:
    """Create the repository if it does not exist, and upload all files in one commit; return its address."""
    import httpx2
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(endpoint=options.endpoint, token=options.token)
    operations = [CommitOperationAdd(name, each if isinstance(each, bytes) else str(each))
                  for name, each in contents.items()]  # fmt: skip
    try:
        # None keeps the owner's default: repositories of an organisation may be private.
        api.create_repo(repo, private=options.private or None, exist_ok=True)
        if options.private and not api.model_info(repo).private:
            raise RecipeError(
                f"--private: {repo} exists already and is public",
                "make it private in its settings on the hub, or name another repository",
            )
        commit = api.create_commit(
            repo, operations, commit_message="Upload a model made with vistune", revision=options.revision
        )
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{repo}: the hub refuses the upload: {reason_of(error)}",
                "log in with a token that may write to it: hf auth login",
            ) from None
        is_temporary = (
            status is None or status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        )
        hint = "try again later" if is_temporary else "check the name, --revision and the model card"
        raise HubError(f"{repo}: the hub answers {status}: {reason_of(error)}", hint) from None
    except (OSError, httpx2.TransportError, OfflineModeIsEnabled) as error:
        raise HubError(f"{repo}: the hub cannot be reached: {reason_of(error)}", "check the connection") from None
    return str(commit.commit_url)

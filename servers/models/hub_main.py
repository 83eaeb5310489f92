"""Fetches one repository of a model hub, at one commit: run by the Python of an environment that has huggingface_hub.

The token comes from HF_TOKEN, the hub's address from HF_ENDPOINT; neither is an argument, so that no list of
processes shows them. What an interrupted run fetched is kept and not fetched again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

OTHER_WEIGHTS = ("*.bin", "*.pth", "*.pt", "*.h5", "*.msgpack", "*.gguf", "onnx/*", "original/*", "openvino/*")
"""The same weights in other formats, which engines do not read where there are safetensors."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--target", required=True, type=Path)
    options = parser.parse_args()
    name, hub = f"{options.repository}@{options.revision}", constants.ENDPOINT
    login = "HF_TOKEN was refused" if os.environ.get("HF_TOKEN") else "set HF_TOKEN"
    try:
        _fetch(options.repository, options.revision, options.target)
    except GatedRepoError:
        _fail(f"{name} at {hub} is gated: accept its licence there with your account; {login}")
    except RevisionNotFoundError:
        _fail(f"{options.repository} at {hub} has no revision {options.revision}")
    except RepositoryNotFoundError:
        _fail(f"{hub} has no model {options.repository}, or it is private: {login}")
    except OfflineModeIsEnabled:
        _fail(f"{name} cannot be fetched: HF_HUB_OFFLINE is set")
    except HfHubHTTPError as error:
        code = error.response.status_code
        _fail(f"{hub} answered {code} for {name}{': ' + login if code in (401, 403) else ''}")
    except Exception as error:  # whatever the HTTP library of this version raises, by no common name
        _fail(f"{name} cannot be fetched from {hub}: {type(error).__name__}; is this machine offline?")


def _fetch(repository: str, revision: str, target: Path) -> None:
    about = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=30)
    files = about.siblings or []
    left_out = OTHER_WEIGHTS if any(each.rfilename.endswith(".safetensors") for each in files) else ()
    wanted = [each for each in files if not any(Path(each.rfilename).match(pattern) for pattern in left_out)]
    size = sum(each.size or 0 for each in wanted)
    target.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    free = shutil.disk_usage(target).free
    if size - there > free:
        _fail(f"{repository} is {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at {target.parent}")
    print(f"progress: fetching {len(wanted)} files, {size / 1e9:.2f} GB, commit {about.sha}", flush=True)
    snapshot_download(repository, revision=about.sha, local_dir=target, ignore_patterns=list(left_out))
    (target / "commit.txt").write_text(f"{about.sha}\n")


def _fail(sentence: str) -> None:
    print(f"error: {sentence}", flush=True)
    sys.exit(1)


if __name__ == "__main__":
    main()

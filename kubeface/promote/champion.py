"""The champion: which version of a model is in force, and how another one takes its place.

`<destination>/<name>/champion.json` names the version. It moves after everything else of a promotion was written, and
only if it is still the one that was read before (compare and swap): of two promotions at the same time, one wins.
"""

import json
import sys
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from kubeface.promote.passport import differences
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects

CHAMPION_FILE = "champion.json"


class Change(BaseModel, frozen=True):
    """One move of the champion; `number` counts from 1."""

    number: int
    version: str
    action: Literal["promoted", "rolled back"]
    reason: str


class Champion(BaseModel, frozen=True):
    """What champion.json says; `version` and `uri` are empty and `number` is 0 where there is no champion yet.

    There is no date in it: `number` and `history` give the order, and equal promotions give equal bytes.
    """

    version: str = ""
    uri: str = ""
    number: int = 0
    history: tuple[Change, ...] = ()

    def before(self) -> str:
        """The version that was champion before this one and was not rolled back itself; empty for none."""
        standing: list[str] = []
        for change in self.history:
            if change.action == "rolled back" and change.version in standing:
                del standing[standing.index(change.version) + 1 :]
            else:
                standing.append(change.version)
        return standing[-2] if len(standing) > 1 else ""


def home_of(destination: str, name: str) -> str:
    """The folder or prefix that holds every version of a model.

    Raises:
        KubefaceError: a name that is no plain name, or no destination.
    """
    require(
        bool(name) and all(letter.isalnum() or letter in "-_" for letter in name),
        f"name is '{name}': use letters, digits, - and _",
    )
    require(bool(destination), "destination is empty: give s3://bucket/models or a folder")
    return objects.join(destination, name)


def read_champion(home: str) -> tuple[Champion, str]:
    """The champion, and the mark of its file for `move`; both are empty where there is none.

    Raises:
        KubefaceError: the file cannot be read or is none of ours.
    """
    uri = objects.join(home, CHAMPION_FILE)
    found = objects.read_with_etag(uri)
    if found is None:
        return Champion(), ""
    try:
        return Champion.model_validate_json(found[0]), found[1]
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(str(part) for part in wrong["loc"])
        raise KubefaceError(
            f"{uri}: {field + ': ' if field else ''}{wrong['msg']}; restore it or remove it to begin anew"
        ) from None


def find_champion(destination: str, name: str) -> str:
    """The URI of the champion's folder; empty where there is none.

    Args:
        destination: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.

    Raises:
        KubefaceError: champion.json cannot be read.
    """
    home = home_of(destination, name)
    version = read_champion(home)[0].version
    return objects.join(home, version) if version else ""


def move(
    home: str,
    champion: Champion,
    mark: str,
    version: str,
    action: Literal["promoted", "rolled back"],
    reason: str,
) -> bool:
    """Puts a version in the champion's place, if the champion is still the one that was read.

    Args:
        home: folder or prefix of the model.
        champion, mark: as `read_champion` gave them.
        version: the new champion, whole already.
        action, reason: for the history.

    Returns:
        whether it is the champion now; False where another one came first.

    Raises:
        KubefaceError: champion.json cannot be written.
    """
    change = Change(number=champion.number + 1, version=version, action=action, reason=reason)
    new = Champion(
        version=version,
        uri=objects.join(home, version),
        number=change.number,
        history=(*champion.history, change),
    )
    if not objects.supports_conditional_writes(objects.join(new.uri, "passport.json")):
        print(
            f"promote: the store of {home} pays no heed to conditional writes: of two promotions at the same moment "
            "the later one stands",
            file=sys.stderr,
            flush=True,
        )
    text = json.dumps(new.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return objects.replace(objects.join(home, CHAMPION_FILE), text.encode(), mark)


def rollback(destination: str, name: str, to: str = "") -> dict[str, Any]:
    """Makes the version before the champion again, or any other one; nothing is deleted.

    Args:
        destination: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.
        to: Version to go to; empty for the one before.

    Returns:
        version, uri, number, rolled_back (the version that was champion).

    Raises:
        KubefaceError: there is no such version, a file of it is not the one that was promoted, or somebody else moved
            the champion meanwhile.
    """
    home = home_of(destination, name)
    champion, mark = read_champion(home)
    require(bool(champion.version), f"{home} has no champion: there is nothing to roll back")
    version = to or champion.before()
    require(
        bool(version), f"{champion.version} is the first champion of {home}: name a version with --to, see the list"
    )
    require("/" not in version and version != "..", f"'{version}' is no version: see the list")
    require(version != champion.version, f"{version} is the champion of {home} already")
    uri = objects.join(home, version)
    found = differences(uri)
    require(not found, f"{uri} cannot be the champion: {'; '.join(found)}")
    moved = move(home, champion, mark, version, "rolled back", f"rolled back from {champion.version}")
    require(moved, f"the champion of {home} moved meanwhile: look at the list and start again")
    print(f"promote: the champion is {version} again, it was {champion.version}", flush=True)
    return {"version": version, "uri": uri, "number": champion.number + 1, "rolled_back": champion.version}


def list_versions(destination: str, name: str) -> dict[str, Any]:
    """Lists the versions of a model, which of them is the champion, and what the gate said of each.

    Args:
        destination: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.

    Returns:
        champion (its URI, empty for none) and versions, in the order in which they became champion, those that never
        were last: version, uri, champion, numbers (of the moves that made it champion), verdict.

    Raises:
        KubefaceError: there is no such model, or the store does not answer.
    """
    home = home_of(destination, name)
    champion, _ = read_champion(home)
    whole = [file.name.split("/")[0] for file in objects.list_files(home) if file.name.endswith("/model.json")]
    require(bool(whole), f"{home} holds no version: check destination and name")
    numbers: dict[str, list[int]] = {version: [] for version in whole}
    for change in champion.history:
        numbers.get(change.version, []).append(change.number)
    versions = [
        {
            "version": version,
            "uri": objects.join(home, version),
            "champion": version == champion.version,
            "numbers": numbers[version],
            "verdict": _verdict(objects.join(home, version)),
        }
        for version in sorted(whole, key=lambda version: (numbers[version] or [sys.maxsize], version))
    ]
    for entry in versions:
        print(f"{'*' if entry['champion'] else ' '} {entry['version']}  {entry['verdict']}", flush=True)
    return {"champion": objects.join(home, champion.version) if champion.version else "", "versions": versions}


def _verdict(uri: str) -> str:
    try:
        return str(json.loads(objects.read_bytes(objects.join(uri, "metrics.json")))["gate"]["reason"])
    except (KubefaceError, ValueError, KeyError, TypeError):
        return "no metrics.json"

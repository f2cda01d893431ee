"""The champion: reading the version in force, replacing it, rolling back, listing versions.

`<destination>/<name>/champion.json` names the version. It is replaced after everything else of a promotion was written,
and only if it is unchanged since it was read (compare and swap): of two promotions at the same time, one wins.
"""

import json
import sys
from dataclasses import dataclass

from pydantic import ValidationError

from kubeface.promote.passport import differences
from kubeface.records.champion import Action, ChampionRecord, Change, model_home
from kubeface.records.record import Record
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects

CHAMPION_FILE = "champion.json"


@dataclass(frozen=True)
class Standing:
    """The champion of the versions below `home` as it was read, without a version where there is none yet; by its etag
    `replace_champion` recognises the file.
    """

    home: str
    record: ChampionRecord
    etag: str

    @property
    def version(self) -> str:
        return self.record.version

    @property
    def uri(self) -> str:
        return objects.join(self.home, self.version) if self.version else ""


class Rollback(Record):
    """The outcome of a rollback: the version in force now, the number of the change, and the version before it."""

    version: str
    uri: str
    number: int
    rolled_back: str


class VersionEntry(Record):
    """A version of a model, whether it is in force, and what the gate said of it."""

    version: str
    uri: str
    champion: bool
    numbers: list[int]
    """Numbers of the changes that made it champion."""
    verdict: str


class VersionList(Record):
    """The versions of a model in the order in which they became champion; those that never did come last."""

    champion: str
    """Address of the version in force; empty for none."""
    versions: list[VersionEntry]


def read_champion(home: str) -> Standing:
    """Reads the champion of a model.

    Raises:
        KubefaceError: champion.json cannot be read or holds something else.
    """
    uri = objects.join(home, CHAMPION_FILE)
    found = objects.read_with_etag(uri)
    if found is None:
        return Standing(home, ChampionRecord(), "")
    try:
        return Standing(home, ChampionRecord.model_validate_json(found[0]), found[1])
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(str(part) for part in wrong["loc"])
        raise KubefaceError(
            f"{uri}: {field + ': ' if field else ''}{wrong['msg']}; restore it or remove it to begin anew"
        ) from None


def find_champion(destination: str, name: str) -> str:
    """The address of the champion's folder; empty where there is none.

    Args:
        destination: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.

    Raises:
        KubefaceError: champion.json cannot be read.
    """
    return read_champion(model_home(destination, name)).uri


def replace_champion(standing: Standing, version: str, action: Action, reason: str) -> bool:
    """Puts a version, completely written, in force unless champion.json has changed since it was read.

    Returns:
        whether it is in force now; False if another change came first.

    Raises:
        KubefaceError: champion.json cannot be written.
    """
    home, before = standing.home, standing.record
    change = Change(number=before.number + 1, version=version, action=action, reason=reason)
    new = ChampionRecord(
        version=version,
        uri=objects.join(home, version),
        number=change.number,
        history=(*before.history, change),
    )
    if not objects.supports_conditional_writes(objects.join(new.uri, "passport.json")):
        print(
            f"promote: the store of {home} ignores conditional writes: of two promotions at the same moment the later "
            "one stands",
            file=sys.stderr,
            flush=True,
        )
    text = json.dumps(new.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return objects.replace(objects.join(home, CHAMPION_FILE), text.encode(), standing.etag)


def rollback(destination: str, name: str, to: str = "") -> Rollback:
    """Puts an earlier version in force again; deletes nothing.

    Args:
        destination: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.
        to: Version to go to; empty for the one before the champion.

    Raises:
        KubefaceError: there is no such version, one of its files has changed since it was promoted, or the champion
            changed meanwhile.
    """
    standing = read_champion(model_home(destination, name))
    home, now = standing.home, standing.version
    require(bool(now), f"{home} has no champion: there is nothing to roll back")
    version = to or standing.record.before()
    require(bool(version), f"{now} is the first champion of {home}: name a version with --to, see kubeface versions")
    require("/" not in version and version != "..", f"'{version}' is no version: see kubeface versions")
    require(version != now, f"{version} is the champion of {home} already")
    uri = objects.join(home, version)
    found = differences(uri)
    require(not found, f"{uri} cannot be the champion: {'; '.join(found)}")
    replaced = replace_champion(standing, version, "rolled back", f"rolled back from {now}")
    require(replaced, f"the champion of {home} changed meanwhile: look at kubeface versions and start again")
    print(f"promote: the champion is {version} again, it was {now}", flush=True)
    return Rollback(version=version, uri=uri, number=standing.record.number + 1, rolled_back=now)


def list_versions(destination: str, name: str) -> VersionList:
    """Lists the versions of a model, which of them is the champion, and what the gate said of each.

    Args:
        destination: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.

    Raises:
        KubefaceError: there is no such model, or the store does not answer.
    """
    home = model_home(destination, name)
    standing = read_champion(home)
    complete = [file.name.split("/")[0] for file in objects.list_files(home) if file.name.endswith("/model.json")]
    require(bool(complete), f"{home} holds no version: check destination and name")
    numbers: dict[str, list[int]] = {version: [] for version in complete}
    for change in standing.record.history:
        numbers.get(change.version, []).append(change.number)
    versions = [
        VersionEntry(
            version=version,
            uri=objects.join(home, version),
            champion=version == standing.version,
            numbers=numbers[version],
            verdict=stored_text(objects.join(home, version), "metrics.json", "gate", "reason") or "no metrics.json",
        )
        for version in sorted(complete, key=lambda version: (numbers[version] or [sys.maxsize], version))
    ]
    for entry in versions:
        print(f"{'*' if entry.champion else ' '} {entry.version}  {entry.verdict}", flush=True)
    return VersionList(champion=standing.uri, versions=versions)


def stored_text(uri: str, name: str, *keys: str) -> str:
    """An entry of a JSON file of a version; empty where the file is damaged or has none."""
    try:
        found = json.loads(objects.read_bytes(objects.join(uri, name)))
        for key in keys:
            found = found[key]
        return str(found)
    except (KubefaceError, ValueError, KeyError, TypeError):
        return ""

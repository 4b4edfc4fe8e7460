"""Where dictionaries that somebody names lie: in a folder of this machine, or fetched from the hub into one."""

from pathlib import Path

from hagd.hub.names import is_hub


def folder_of(dictionaries: str) -> Path:
    """Give the folder that a path or `hub:OWNER/NAME[/FOLDER][@REVISION]` names; errors as the hub answers."""
    if not is_hub(dictionaries):
        return Path(dictionaries).expanduser()
    # The formats, which tell what a repository is of, load torch.
    from hagd.dictionaries.formats.sharing import dictionaries_at  # noqa: PLC0415

    return dictionaries_at(dictionaries)

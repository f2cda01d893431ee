"""Data sets that are known by name: where they are published and what their files' checksums are.

`lfw` stands for the archive wherever a source or an archive is asked for, `lfw/pairs.txt` for the file. A file or
folder of that name goes first. On a cluster without internet, the mirror of weights (KUBEFACE_WEIGHTS_MIRROR) is asked
before the publisher: it holds them as <sha256>/<last part of the address>.
"""

from pathlib import Path

# Labeled Faces in the Wild. vis-www.cs.umass.edu/lfw, where it was published, does not answer any more; these are the
# copies and checksums that scikit-learn fetches (sklearn/datasets/_lfw.py). The deep-funnelled images are
# not among them and nobody publishes a SHA-256 of them: give their archive as a path.
DATASETS = {
    "lfw": "https://ndownloader.figshare.com/files/5976018"
    "#sha256=055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
    "lfw-funneled": "https://ndownloader.figshare.com/files/5976015"
    "#sha256=b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
    "lfw/pairs.txt": "https://ndownloader.figshare.com/files/5976006"
    "#sha256=ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
    "lfw/pairsDevTrain.txt": "https://ndownloader.figshare.com/files/5976012"
    "#sha256=1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
    "lfw/pairsDevTest.txt": "https://ndownloader.figshare.com/files/5976009"
    "#sha256=7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
}


def published(name: str) -> str | None:
    """Address and checksum of a data set's file; None where the name is none, or that of a file or folder here."""
    return None if Path(name).exists() else DATASETS.get(name)

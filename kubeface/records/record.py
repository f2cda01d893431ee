"""What every JSON file of kubeface is: a typed record, checked when it is read and written the same each time."""

from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from kubeface.metrics.figures import Sparse
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import explain
from kubeface.storage.folders import read_json, write_json

STEP_FILE: Final = "step.json"  # where a task of a pipeline leaves a StepRecord, in its output folder


class Record(BaseModel):
    """A record: frozen, with every field named; numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the record from a JSON file.

        Raises:
            KubefaceError: the file is missing, is not JSON, or holds something else; the line names file and fields.
        """
        return cls.parse(read_json(path), str(path))

    @classmethod
    def parse(cls, value: object, where: str) -> Self:
        """The record in what `json.loads` gave; `where` it came from is for the error.

        Raises:
            KubefaceError: it is something else; the line names every field that is wrong.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise KubefaceError(
                f"{where} is not what this release reads ({explain(error, cls)}): run the step that writes it again"
            ) from None

    def write(self, path: Path) -> None:
        """Writes the record as JSON with sorted keys: equal records give equal bytes."""
        write_json(path, self.model_dump(mode="json", by_alias=True))


class SparseRecord(Record, Sparse):
    """A record that leaves out of JSON what is None by default."""


class StepResult(Record):
    """The figures that a step returns; each step's own adds its numbers as fields.

    They are printed as JSON by the command line and become the task's metrics in Kubeflow.
    """

    rows_in: int
    """Items that the step read."""
    rows_out: int
    """Items that it passed on."""


class StepRecord(StepResult):
    """step.json: what a task of a pipeline did, for the report. The step's own figures stand beside these fields."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    seconds: float

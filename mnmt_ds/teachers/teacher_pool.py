"""The frozen teachers of one student: taken in, dropped, prefetched and asked for decoder states.

Who holds what, on R data-parallel ranks::

    each rank, always        1/R of the weights of every teacher in use   ShardStorage: CPU memory, then files
    each rank, while needed  two teachers on the device, each whole       ShardedTeachers: two buffers
                             (pipeline: its own stage's layers of them)
    each rank, with a cache  decoder states of some training sentences    StateStorage: CPU memory, then files
                             (pipeline: ranks of the last stage only)

What is sent, and when::

    at a validation     nothing: each rank copies its own shard of the student (``take_snapshot``)
    during a step       what the next micro-batch needs (``prefetch``), in a background thread:
      fetch             all-to-all of shards; each rank receives its next teacher, whole
      cache             teacher forward pass of the sentences that no rank has cached; then an all-to-all of cached
                        states, from the ranks that own them to the ranks that need them
      pipeline          not cached: the teacher's activations are sent with the student's, stage to stage, in the step;
                        cached: the forward pass goes from stage to stage, and the last stages exchange states
    in the next step    nothing: ``states`` waits for what was prefetched and hands it to the loss

``teacher_server`` lists the five ways in which states are served.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mnmt_ds import metric_keys
from mnmt_ds.batch import Batch, MicroBatchContent
from mnmt_ds.errors import FaultList, UserError
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.teacher_server import TeacherRequest, TeacherServer, TeacherStates
from mnmt_ds.teachers.teacher_source import TeacherChoice


class TeacherPool:
    """Teachers of one student: their sharded weights, and the server of their decoder states.

    Every method but ``states`` is called by all ranks together, in the same order.
    """

    def __init__(
        self,
        pairs: Sequence[str],
        teachers: ShardedTeachers,
        server: TeacherServer,
        own_shard: Callable[[], Tensor],
        load_shard: Callable[[Version], Tensor],
    ) -> None:
        """Starts without teachers.

        Args:
            pairs: names of the run's language pairs.
            teachers: holds the weights.
            server: serves decoder states from these weights.
            own_shard: copies this rank's shard of the student's present weights to the CPU.
            load_shard: reads this rank's shard of a teacher from the files that a checkpoint refers to.
        """
        self.pairs, self.teachers, self.server = pairs, teachers, server
        self._own_shard, self._load_shard = own_shard, load_shard

    def take_snapshot(self, version: Version) -> None:
        """Makes the student's present weights a teacher; a rank copies its own shard, nothing is gathered.

        Args:
            version: name of the new teacher, the present update.
        """
        self.teachers.shard_storage.put(version, self._own_shard())

    def restore(self, versions: Iterable[Version]) -> None:
        """Reads teachers from the files that a checkpoint refers to, and drops all others.

        Each rank begins with other teachers, so that ranks verify different files at first: whoever comes second finds
        a file's digest known.

        Args:
            versions: the teachers to have.

        Raises:
            UserError: on every rank, when a file is missing, altered or of another model.
        """
        versions = set(versions)
        self.keep_only(versions)
        ranks, storage = self.teachers.ranks, self.teachers.shard_storage
        missing = [version for version in sorted(versions, key=str) if version not in storage]
        first = ranks.rank * len(missing) // ranks.size
        faults: list[str] = []
        try:
            for version in [*missing[first:], *missing[:first]]:
                storage.put(version, self._load_shard(version))
        except UserError as error:
            faults += error.faults
        FaultList(dict.fromkeys(fault for of_rank in ranks.gather(faults) for fault in of_rank)).raise_any()

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all other teachers, with their cached states.

        Args:
            versions: the teachers to keep.
        """
        self.server.keep_only(set(versions))

    def prefetch(self, contents: Sequence[MicroBatchContent | None], source: TeacherChoice) -> None:
        """Prefetches the teacher states of the ranks' next micro-batches; does nothing where no rank has a teacher.

        Args:
            contents: the micro-batch of each data-parallel rank, equal on all of them; None: it has none.
            source: says which teacher each pair has.
        """
        requests: list[TeacherRequest | None] = []
        for content in contents:
            version = None if content is None else source.teacher_of(self.pairs[content.pair])
            requests.append(
                None if content is None or version is None else TeacherRequest(version, content.pair, content.sentence)
            )
        if any(request is not None for request in requests):
            self.server.prefetch(requests)

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Returns a teacher's states of a batch, without dropout or gradient.

        Args:
            version: the teacher.
            batch: this rank's micro-batch, on the device.

        Returns:
            Decoder states (B, T, E) and projection (V, E).
        """
        with torch.no_grad():
            return self.server.states(version, batch)

    def models(self) -> list[nn.Module]:
        """Lists the teacher models, or parts of them, on this rank's device.

        Returns:
            The modules; their weights change from teacher to teacher.
        """
        return self.server.models()

    def report(self) -> dict[str, float]:
        """Returns metrics since the last report.

        Returns:
            Values by metric key; bytes are this rank's.
        """
        memory = {metric_keys.MEMORY_TEACHERS: float(self.teachers.shard_storage.memory_bytes())}
        return memory | self.server.report()

"""Where a run trains: on how many devices of how many machines, and who else is told how it goes."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from graticule.choices import Tracker
from graticule.errors import BadRecipeError, DeviceError

PATIENCE = timedelta(minutes=10)  # with processes that do not come, or vanish without closing their connections


@dataclass(frozen=True, slots=True)
class Machines:
    """The processes that train together, one a device. They decide how fast a run is, and not what it learns.

    Attributes:
        devices: of each machine: GPUs where there are some, else processes on the CPU.
        nodes: machines.
        tracker: an experiment tracker that is told the losses, beside ``history.csv``.
    """

    devices: int = 1
    nodes: int = 1
    tracker: Tracker | None = None

    @classmethod
    def of(cls, devices: int | None, nodes: int | None, tracker: Tracker | None = None) -> "Machines":
        """As asked for; where nothing is asked, what ``torchrun`` says that it started."""
        here, world = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        return cls(devices or here, nodes or max(1, world // (devices or here)), tracker)

    @property
    def world(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files, before Lightning has counted the processes."""
        names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
        return self.world == 1 or all(int(os.environ.get(name, 0)) == 0 for name in names)

    def check(self, batch_size: int, accumulate: int, frozen: bool) -> None:
        """Make sure that a step can be shared out.

        Raises:
            BadRecipeError: the photos of a step cannot be dealt out evenly, or nothing is left to share.
            DeviceError: other processes were started than are to train, or nobody said which of them this one is.
        """
        shares = self.world * accumulate
        if frozen and shares > 1:
            raise BadRecipeError(
                "with encoder.frozen: true only the head trains, which takes seconds in one process; leave out "
                "--devices, --nodes and train.accumulate"
            )
        if batch_size % shares:
            raise BadRecipeError(
                f"train.batch_size: {batch_size} is all the photos of a step, which {self.world} devices in "
                f"{accumulate} parts cannot share evenly; give a multiple of {shares}"
            )
        told = f"srun --nodes {self.nodes} --ntasks-per-node {self.devices}"
        if self.by_srun:
            started = [os.environ.get(name, "none") for name in ("SLURM_STEP_NUM_NODES", "SLURM_NTASKS_PER_NODE")]
            if started != [str(self.nodes), str(self.devices)]:
                raise DeviceError(
                    f"srun was told of --nodes {started[0]} and --ntasks-per-node {started[1]}, and graticule of "
                    f"--nodes {self.nodes} and --devices {self.devices}; start it by {told}"
                )
        elif self.nodes > 1 and not os.environ.keys() & {"NODE_RANK", "RANK"}:
            raise DeviceError(
                f"--nodes {self.nodes}: nobody said which machine this is; start it by torchrun or by {told}, "
                "or give each machine MASTER_ADDR, MASTER_PORT and NODE_RANK"
            )

    @property
    def by_srun(self) -> bool:
        """Whether SLURM's ``srun`` started the processes, and not ``torchrun`` or Lightning inside a job of SLURM."""
        return self.world > 1 and "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1

    def launcher(self) -> Any:
        """Who started the processes, as Lightning calls it; none where Lightning sees it by itself.

        In a job of SLURM it goes by the job's name: under ``salloc`` it would start processes beside those of ``srun``,
        and in a batch script without ``srun`` wait for others that nobody starts.
        """
        if "SLURM_JOB_ID" not in os.environ or "RANK" in os.environ:
            return None
        from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment

        # Its own way to requeue writes checkpoints beside ours, which none of ours checks.
        return SLURMEnvironment(auto_requeue=False) if self.by_srun else LightningEnvironment()

    def strategy(self, some_rest: bool) -> Any:
        """Lightning's way to train together; ``some_rest`` where a stage holds parts of the network still."""
        if self.world == 1:
            return "auto"
        from lightning.pytorch.strategies import DDPStrategy  # torch takes seconds to load

        return DDPStrategy(find_unused_parameters=some_rest, timeout=PATIENCE)

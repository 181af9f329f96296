"""What an audit will take, counted before it runs: operations, bytes, network, seconds on machines that are named."""

from krepes.cost.audit import Cost, cost_of, counted, measured_here
from krepes.cost.counts import KINDS, Sizes, Stage
from krepes.cost.machines import Machine, machine_named

__all__ = ["KINDS", "Cost", "Machine", "Sizes", "Stage", "cost_of", "counted", "machine_named", "measured_here"]

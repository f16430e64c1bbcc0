"""What happens in a run, in order: `Flow` executes runs, the other modules are the ways to read a stream."""

from samband.flow.flow import Flow, FlowSettings
from samband.flow.reading import Observer

__all__ = ["Flow", "FlowSettings", "Observer"]

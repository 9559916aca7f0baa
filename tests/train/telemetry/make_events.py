"""Makes golden/events.tfevents by TensorBoard's own messages and record writer.

    pip install tensorboard && python tests/train/telemetry/make_events.py

What it holds is RECORDS, with the version and the start of a session before it.
"""

import pathlib

RECORDS = (
    {"step": 50, "kind": "train", "time": 1.7e9, "mlm_loss": 6.5, "learning_rate": 1e-4},
    {"step": 100_000, "kind": "train", "time": 1.7e9 + 0.125, "mlm_loss": 1 / 3, "skipped": 2},
    {"step": 1 << 40, "kind": "train", "time": 1.7e9 + 1, "mlm_loss": None, "loss": -2.5e-7},
)
START = 1.7e9 - 5


def main():
    """Writes the file beside this one."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = [
        Event(wall_time=START, file_version="brain.Event:2"),
        Event(wall_time=START, session_log=SessionLog(status=SessionLog.START)),
    ]
    for record in RECORDS:
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if name not in ("step", "kind", "time") and value is not None
        ]
        events.append(
            Event(wall_time=record["time"], step=record["step"], summary=Summary(value=values))
        )
    path = pathlib.Path(__file__).with_name("golden") / "events.tfevents"
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
import signal
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from prosparse.training.callbacks import STOPPING, Progress, StageEnds, StopOnInterrupt
from prosparse.training.schedule import Schedule, Stage

ARGS = SimpleNamespace(save_steps=4, world_size=1)
SCHEDULE = Schedule((Stage(3, 0), Stage(6, 0.1), Stage(10, 1.0, name="last")))


def after(callback, step: int, is_main: bool = True) -> TrainerControl:
    """Return what a callback asks for after a step."""
    state = TrainerState(global_step=step, max_steps=10, is_world_process_zero=is_main)
    control = TrainerControl()
    callback.on_step_end(ARGS, state, control)
    return control


class StandIn:
    """A trainer and milestones, as far as StageEnds looks at them."""

    schedule, model, tokens_seen = SCHEDULE, "the model", 99
    controller, factor = None, SCHEDULE.factor

    def __init__(self) -> None:
        self.clock = self
        self.is_paused = False
        self.measured = []

    @contextmanager
    def paused(self):
        self.is_paused = True
        yield
        self.is_paused = False

    def measure(self, label, model, **where) -> None:
        assert self.is_paused
        self.measured.append((label, model, where))


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def stage_ends(stand_in) -> StageEnds:
    return StageEnds(stand_in, stand_in, every=None)


def test_each_stage_ends_with_a_measurement_while_the_clock_stands_still(stage_ends, stand_in):
    for step in range(1, 11):
        after(stage_ends, step)
    assert stand_in.measured == [
        ("stage 0", "the model", {"step": 3, "factor": 0.0, "tokens_seen": 99}),
        ("stage 1", "the model", {"step": 6, "factor": 0.1, "tokens_seen": 99}),
        ("last", "the model", {"step": 10, "factor": 1.0, "tokens_seen": 99}),
    ]


def test_each_stage_ends_with_a_log_line_and_a_checkpoint(stage_ends):
    controls = {step: after(stage_ends, step) for step in range(1, 11)}
    assert [step for step, control in controls.items() if control.should_save] == [3, 6, 10]
    assert [step for step, control in controls.items() if control.should_log] == [3, 4, 6, 8, 10]


def test_within_a_stage_it_is_measured_as_often_as_is_asked(stand_in):
    ends = StageEnds(stand_in, stand_in, every=2)
    for step in range(1, 11):
        after(ends, step)
    labels = [label for label, *_ in stand_in.measured]
    assert labels == ["step 2", "stage 0", "step 4", "stage 1", "step 8", "last"]


def test_only_the_main_process_measures_but_all_of_them_log(stage_ends, stand_in):
    assert after(stage_ends, 3, is_main=False).should_log
    assert stand_in.measured == []


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in STOPPING}
    # As in a terminal: what a shell starts in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = StopOnInterrupt()
    stop.on_train_begin(ARGS, None, None)
    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_ctrl_c_nothing_stops(stop):
    assert not after(stop, 5).should_training_stop


@pytest.mark.parametrize("number", STOPPING)
def test_ctrl_c_and_sigterm_finish_the_step_and_save(stop, capsys, number):
    signal.raise_signal(number)
    control = after(stop, 5)
    assert control.should_training_stop
    assert control.should_save
    assert control.should_log
    printed = capsys.readouterr()
    assert "Ctrl-C again stops at once" in printed.err
    assert printed.out == ""


def test_ctrl_c_in_the_last_step_lets_the_run_finish(stop):
    signal.raise_signal(signal.SIGINT)
    assert not after(stop, 10).should_training_stop


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, to be turned forward."""
    now = [100.0]
    monkeypatch.setattr("prosparse.training.callbacks.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", STOPPING)
def test_the_second_signal_stops_at_once(stop, now, number):
    signal.raise_signal(signal.SIGINT)
    now[0] += 2
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_ctrl_c_that_arrives_twice_is_one(stop, now, capsys):
    signal.raise_signal(signal.SIGINT)
    now[0] += 0.5  # timeout(1) interrupts the process, then its group
    signal.raise_signal(signal.SIGINT)
    assert after(stop, 5).should_training_stop
    assert capsys.readouterr().err.count("Ctrl-C again stops at once") == 1


def test_the_signals_are_given_back(monkeypatch):
    monkeypatch.setattr("prosparse.training.callbacks.STOPPING", (signal.SIGUSR1, signal.SIGUSR2))
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    stop = StopOnInterrupt()
    stop.on_train_begin(ARGS, None, None)
    assert signal.getsignal(signal.SIGUSR2) == stop._note
    stop.restore()
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)] == before


def test_outside_the_main_thread_ctrl_c_is_left_alone():
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=StopOnInterrupt().on_train_begin, args=(ARGS, None, None))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_bar_starts_where_a_resumed_run_stands_and_counts_tokens(capsys):
    bar = Progress(tokens_per_step=64)
    state = TrainerState(global_step=4, max_steps=10, is_world_process_zero=True)
    bar.on_train_begin(ARGS, state, None)
    assert (bar._bar.n, bar._bar.total) == (256, 640)
    bar.on_step_end(ARGS, state, None)
    bar.on_log(ARGS, state, None, logs={"lm_loss": 2.5, "sparsity": 0.75, "factor": 0.1})
    bar.on_log(ARGS, state, None, logs={"train_runtime": 3.0})  # the Trainer's own last words
    assert bar._bar.n == 320
    bar.on_train_end(ARGS, state, None)
    assert "loss 2.500, sparsity 75.0%, lambda 0.1" in capsys.readouterr().err


def test_only_the_main_process_shows_a_bar(capsys):
    bar = Progress(tokens_per_step=64)
    state = TrainerState(max_steps=10, is_world_process_zero=False)
    bar.on_train_begin(ARGS, state, None)
    bar.on_step_end(ARGS, state, None)
    bar.on_train_end(ARGS, state, None)
    assert capsys.readouterr().err == ""

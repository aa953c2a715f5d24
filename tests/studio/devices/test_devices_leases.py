"""Leases on a simulated machine whose memory is exact: moving too much there fails like the real thing."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from studio.devices import Device, DeviceManager
from studio.devices.residency import bytes_on
from studio.errors import StudioError

GIB = 2**30
Simulate = Callable[..., Any]


def test_lease_moves_the_model_and_leaves_it_there(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu, model = DeviceManager(machine), machine.device("cuda:0"), machine.model(2)
    with manager.lease(gpu, 3 * GIB, model, name="splat") as lease:
        assert lease.model is model
        assert model.place == "cuda:0"
        assert manager.residents(gpu) == [("splat", 3 * GIB, True)]
    assert model.place == "cuda:0"
    assert manager.residents(gpu) == [("splat", 2 * GIB, False)]
    with manager.lease(gpu, 3 * GIB, model, name="splat"):
        assert model.moves == ["cuda:0"], "it was there already"


def test_least_recently_used_model_makes_room(simulate: Simulate) -> None:
    machine = simulate(cpu=32, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    a, b, c = (machine.model(3) for _ in range(3))
    for name, model in (("a", a), ("b", b), ("a", a)):
        manager.lease(gpu, 3 * GIB, model, name=name).release()
    with manager.lease(gpu, 3 * GIB, c, name="c"):
        assert (a.place, b.place, c.place) == ("cuda:0", "cpu", "cuda:0"), "a was used after b"
    with manager.lease(gpu, 3 * GIB, b, name="b"):
        assert (a.place, b.place, c.place) == ("cpu", "cuda:0", "cuda:0"), "a was used before c"


def test_several_models_leave_if_one_is_not_enough(simulate: Simulate) -> None:
    machine = simulate(cpu=32, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    small = [machine.model(2) for _ in range(4)]
    for model in small:
        manager.lease(gpu, 0, model, name="small").release()
    with manager.lease(gpu, 5 * GIB, machine.model(1), name="big"):
        assert [model.place for model in small] == ["cpu", "cpu", "cpu", "cuda:0"]


def test_working_memory_of_running_leases_is_kept_for_them(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    with manager.lease(gpu, 5 * GIB, machine.model(1), name="training"):
        with pytest.raises(StudioError, match=r"'viewer' needs 4\.0 GiB on cuda:0 .* 3\.0 GiB of 8\.0 GiB"):
            manager.lease(gpu, 4 * GIB, name="viewer")
        # Once the training has taken its 4 GiB besides the model, they must not count twice.
        machine.allocate("cuda:0", 4 * GIB)
        manager.lease(gpu, 3 * GIB, name="viewer").release()
        with pytest.raises(StudioError, match=r"'training' 5\.0 GiB in use"):
            manager.lease(gpu, 3 * GIB + 1, name="viewer")
        machine.free("cuda:0", 4 * GIB)
    manager.lease(gpu, 7 * GIB, name="viewer").release()


def test_memory_of_other_programs_counts(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    with manager.lease(gpu, GIB, name="first"):
        machine.allocate("cuda:0", 6 * GIB)
        with pytest.raises(StudioError):
            manager.lease(gpu, 3 * GIB, name="second")
        machine.free("cuda:0", 6 * GIB)
        manager.lease(gpu, 7 * GIB, name="second").release()


def test_memory_that_others_free_during_a_lease_can_be_had(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    machine.allocate("cuda:0", 6 * GIB)
    with manager.lease(gpu, GIB, name="first"):
        machine.free("cuda:0", 6 * GIB)
        manager.lease(gpu, 7 * GIB, name="second").release()


def test_what_never_fits_moves_nothing_and_names_all(simulate: Simulate) -> None:
    machine = simulate(cpu=64, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    idle, busy = machine.model(2), machine.model(3)
    manager.lease(gpu, 0, idle, name="idle").release()
    with manager.lease(gpu, 0, busy, name="busy"), pytest.raises(StudioError) as caught:
        manager.lease(gpu, 6 * GIB, machine.model(1), name="huge")
    assert "'huge' needs 6.0 GiB on cuda:0 (Simulated cuda:0), but 3.0 GiB of 8.0 GiB can be had" in str(caught.value)
    assert "'idle' 2.0 GiB" in str(caught.value)
    assert "'busy' 3.0 GiB in use" in str(caught.value)
    assert "--device cpu" in str(caught.value)
    assert idle.place == "cuda:0"
    assert ("huge", GIB, False) not in manager.residents(gpu)


def test_need_below_the_models_size_counts_as_its_size(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=2)
    with pytest.raises(StudioError, match=r"needs 3\.0 GiB"):
        DeviceManager(machine).lease(machine.device("cuda:0"), 1, machine.model(3), name="m")


def test_two_leases_of_one_model_share_it(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8, cuda1=8)
    manager, gpu, model = DeviceManager(machine), machine.device("cuda:0"), machine.model(4)
    with manager.lease(gpu, 5 * GIB, model, name="train"):
        with manager.lease(gpu, 6 * GIB, model, name="view"):
            assert manager.residents(gpu)[0][1] == 7 * GIB, "the model once, and the working memory of both"
        with pytest.raises(StudioError, match="in use on cuda:0 and cannot be moved to cuda:1"):
            manager.lease(machine.device("cuda:1"), 5 * GIB, model, name="train")
    with manager.lease(machine.device("cuda:1"), 5 * GIB, model, name="train"):
        assert model.place == "cuda:1"
        assert manager.residents(gpu) == []


def test_host_without_room_keeps_models_on_the_gpu(simulate: Simulate) -> None:
    machine = simulate(cpu=6, cuda0=8)
    manager, gpu, first = DeviceManager(machine), machine.device("cuda:0"), machine.model(4)
    manager.lease(gpu, 0, first, name="first").release()
    machine.allocate("cpu", 3 * GIB)
    with pytest.raises(StudioError, match="'second' needs"):
        manager.lease(gpu, 5 * GIB, name="second")
    assert first.place == "cuda:0"


def test_fragmented_memory_is_answered_by_moving_one_more(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    idle, model = machine.model(2), machine.model(2)
    manager.lease(gpu, 0, idle, name="idle").release()
    machine.fragmented = 1
    with manager.lease(gpu, 0, model, name="model"):
        assert (idle.place, model.place) == ("cpu", "cuda:0")
    machine.fragmented = 99
    manager.offload_idle(gpu)
    with pytest.raises(StudioError, match="'model' needs"):
        manager.lease(gpu, 0, model, name="model")
    assert model.place == "cpu"


class TwoParts:
    """A model of two tensors, of which the second may fail to move after the first has."""

    def __init__(self, first: Any, second: Any) -> None:
        self.parts = (first, second)

    def bytes_on(self, device: torch.device | None) -> int:
        return sum(part.bytes_on(device) for part in self.parts)

    def to(self, device: torch.device) -> None:
        for part in self.parts:
            part.to(device)


def test_a_move_that_fails_half_way_is_undone(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    first, second = machine.model(2), machine.model(2)
    allocate = machine.allocate

    def fail_for_second(place: str, size: int) -> None:
        if place == "cuda:0" and first.place == "cuda:0":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. (taken by another program meanwhile)")
        allocate(place, size)

    machine.allocate = fail_for_second
    with pytest.raises(StudioError, match="'model' needs"):
        manager.lease(gpu, 0, TwoParts(first, second), name="model")
    assert (first.place, second.place) == ("cpu", "cpu")
    assert machine.used["cuda:0"] == 0


def test_deleted_models_leave_no_trace(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    model = machine.model(4)
    gone = weakref.ref(model)
    lease = manager.lease(gpu, 0, model, name="gone")
    lease.release()
    machine.models.clear()
    del model
    gc.collect()
    assert gone() is None, "neither the manager nor a released lease keeps it"
    assert manager.residents(gpu) == []


def test_resize(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    idle = machine.model(3)
    manager.lease(gpu, 0, idle, name="idle").release()
    lease = manager.lease(gpu, 4 * GIB, machine.model(1), name="growing")
    lease.resize(6 * GIB)
    assert idle.place == "cpu"
    with pytest.raises(StudioError, match=r"'growing' needs 9\.0 GiB"):
        lease.resize(9 * GIB)
    assert manager.residents(gpu) == [("growing", 6 * GIB, True)]
    lease.release()
    lease.release()
    with pytest.raises(RuntimeError, match="released"):
        lease.resize(1)


def test_a_lease_waits_for_another_to_end(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    first = manager.lease(gpu, 6 * GIB, name="first")
    with pytest.raises(StudioError):
        manager.lease(gpu, 5 * GIB, name="second", wait_seconds=0.01)
    entered = threading.Event()

    def second() -> None:
        with manager.lease(gpu, 5 * GIB, name="second", wait_seconds=60):
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not entered.wait(0.05)
    first.release()
    thread.join(60)
    assert entered.is_set()
    # What could not fit even then does not wait: this returns at once or the test times out.
    with manager.lease(gpu, GIB, name="third"), pytest.raises(StudioError):
        manager.lease(gpu, 9 * GIB, name="never", wait_seconds=10_000)


def test_an_error_inside_releases_the_lease(simulate: Simulate) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    with pytest.raises(KeyError), manager.lease(gpu, 8 * GIB, name="failing"):
        raise KeyError
    assert manager.residents(gpu) == []


def test_cpu_leases_check_memory_and_move_nothing(simulate: Simulate) -> None:
    machine = simulate(cpu=8)
    manager, cpu = DeviceManager(machine), machine.device("cpu")
    model = machine.model(2)
    with manager.lease(cpu, 6 * GIB, model, name="m"):
        assert model.moves == []
        with pytest.raises(StudioError, match=r"on cpu .* 2\.0 GiB of 8\.0 GiB can be had"):
            manager.lease(cpu, 3 * GIB, name="n")


# `simulate` is a class: nothing of it is shared between examples.
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.booleans()), max_size=40),
)
def test_memory_is_never_overcommitted(
    simulate: Simulate, sizes: list[int], steps: list[tuple[int, int, bool]]
) -> None:
    """Random leases and releases, each lease taking all of its working memory: no allocation may ever fail."""
    machine = simulate(cpu=200, cuda0=10)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    models = [machine.model(size) for size in sizes]
    running: dict[int, Any] = {}
    for which, extra, begin in steps:
        number = which % len(models)
        if begin and number not in running:
            fits = sum(models[n].size + lease[1] for n, lease in running.items()) + models[number].size + extra * GIB
            try:
                lease = manager.lease(gpu, models[number].size + extra * GIB, models[number], name=str(number))
            except StudioError:
                assert fits > 10 * GIB, "refused although all others could have moved away"
                continue
            assert fits <= 10 * GIB
            machine.allocate("cuda:0", extra * GIB)  # raises if the manager promised too much
            running[number] = (lease, extra * GIB)
        elif not begin and number in running:
            lease, taken = running.pop(number)
            machine.free("cuda:0", taken)
            lease.release()
        assert all(models[n].place == "cuda:0" for n in running)


def test_threads_share_a_device(simulate: Simulate) -> None:
    machine = simulate(cpu=64, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    models = [machine.model(3) for _ in range(4)]
    failures: list[BaseException] = []

    def work(model: Any) -> None:
        try:
            for _ in range(25):
                with manager.lease(gpu, 4 * GIB, model, name="worker", wait_seconds=120):
                    machine.allocate("cuda:0", GIB)
                    assert model.place == "cuda:0"
                    machine.free("cuda:0", GIB)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert machine.used["cuda:0"] == sum(m.size for m in models if m.place == "cuda:0")


def test_bytes_of_a_module_count_shared_tensors_once_and_gradients_too() -> None:
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 10, bias=False), nn.BatchNorm1d(10))
    weights = 4 * (200 + 200 + 10 + 10)
    buffers = 4 * (10 + 10) + 8
    assert bytes_on(model, torch.device("cpu")) == weights + buffers
    model(torch.ones(3, 10)).sum().backward()
    assert bytes_on(model, None) == 2 * weights + buffers
    assert bytes_on(model, torch.device("meta")) == 0
    tied = nn.ModuleList([nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)])
    tied[1].weight = tied[0].weight
    assert bytes_on(tied, None) == 4 * 64
    with pytest.raises(TypeError, match=r"nn\.Module or have bytes_on"):
        bytes_on(object(), None)


def test_real_module_on_the_real_cpu() -> None:
    manager = DeviceManager()
    cpu = manager.select("cpu")
    model = nn.Linear(4, 4)
    weight = model.weight
    with manager.lease(cpu, 10_000, model, name="linear") as lease:
        assert lease.need_bytes == 10_000
        assert manager.residents(cpu)[0] == ("linear", 10_000, True)
    assert model.weight is weight
    with pytest.raises(StudioError, match="can be had"):
        manager.lease(cpu, 2**60, model, name="linear")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_real_module_on_a_real_gpu() -> None:
    manager = DeviceManager()
    gpu: Device = manager.select("cuda")
    model = nn.Linear(1024, 1024)
    x = torch.ones(1, 1024)
    expected = model(x)
    with manager.lease(gpu, 64 * 2**20, model, name="linear"):
        torch.testing.assert_close(model(x.to(gpu.torch_device)).cpu(), expected, rtol=1e-4, atol=1e-4)
    assert manager.offload_idle(gpu) == bytes_on(model, None)
    assert model.weight.device.type == "cpu"

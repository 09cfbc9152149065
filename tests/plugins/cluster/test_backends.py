"""The choice of a back end, what a cluster's machines must share, and the leases of their jobs."""

import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import casewise
from casewise.errors import CasewiseError, RunError
from casewise.jobs.plan import Job
from casewise.plugins.cluster import leases
from casewise.plugins.cluster.leases import LEASES, LeaseError, Leases, Lessor, end_earlier, locked, reads
from casewise.run_folder import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from casewise.plugins.cluster import leases
leases.LOOK = 0.05
with leases.locked(Path(sys.argv[1]), sys.argv[2], sys.argv[3], "machine-7", float(sys.argv[4])):
    print("held", flush=True)
    time.sleep(120)
print("let go", flush=True)
"""


def test_an_address_without_a_cluster_is_refused() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    for wrong, message in ((closed, "was reached: Connection refused"), ("head:99999", "HOST:PORT")):
        with pytest.raises(CasewiseError, match=message), casewise.executing_on("ray", wrong):
            pass


@pytest.mark.slow
def test_ray_of_this_machine_is_closed_to_others_and_starts(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = (
        "import casewise, os\n"
        "with casewise.executing_on('ray'):\n"
        "    import ray\n"
        "    print(os.environ['RAY_AUTH_MODE'], ray.get(ray.remote(lambda: 6 * 7).remote()))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["token", "42"], done.stderr
    done = subprocess.run(
        [*words[:2], f"import ray\n{script}"], env=environment, capture_output=True, text=True, check=False
    )
    assert "Import it later" in done.stderr


def test_machines_that_do_not_share_the_folder_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("ray")
    from casewise.plugins.cluster.machines import NodeReport, refuse

    this, folder = NodeReport.of_this(), tmp_path
    good = replace(this, host="good")
    refuse([good, good], this, folder)
    wrong = [
        (replace(this, host="blind", shares=False), "blind .* does not see .*--output"),
        (replace(this, host="bare", missing=("/tiles",)), "/tiles is not on bare .*`images.store`"),
        (replace(this, host="old", versions="casewise 0.0.1"), "old .* has casewise 0.0.1"),
    ]
    for report, message in wrong:
        with pytest.raises(RunError, match=message):
            refuse([good, report], this, folder)
    with pytest.raises(RunError, match="No machine"):
        refuse([], this, folder)
    assert not caplog.messages
    refuse([good, replace(this, processor="another")], this, folder)
    assert "different processors" in caplog.text


def test_jobs_need_a_machine_with_their_cores() -> None:
    pytest.importorskip("ray")
    from casewise.plugins.cluster.machines import Task, check_room, cores_of

    nodes = {"head": {"host": "a"}, "small": {"CPU": 2.0, "host": "b"}, "gpus": {"CPU": 16.0, "GPU": 4.0, "host": "c"}}
    assert (cores_of(3, 0, nodes), cores_of(16, 1, nodes), cores_of(16, 1, {})) == (3, 4, 1)
    check_room([Task("a", b"", 16, 0), Task("b", b"", 4, 1)], nodes)
    with pytest.raises(RunError, match="the 17 cores that a task takes; the largest has 16 cores"):
        check_room([Task("a", b"", 17, 0)], nodes)
    with pytest.raises(RunError, match="1 core and a GPU"):
        check_room([Task("a", b"", 1, 1)], {"small": nodes["small"]})


@pytest.mark.parametrize("machine_lost", [True, False])
def test_a_task_that_did_not_begin_is_given_to_the_cluster_again(
    machine_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Either the cluster lost a machine that may have been asked for room, or the task's lease was not seen there."""
    pytest.importorskip("ray")
    from casewise.plugins.cluster import backend as backend_file

    submitted: list[dict[str, object]] = []
    leases_of: list[str] = []
    backend, lessor = backend_file.RayBackend("nowhere"), Lessor(tmp_path)
    backend._session = backend_file.Session(tmp_path, lessor, None)

    class Work:
        def options(self, **options: object) -> "Work":
            submitted.append(options)
            return self

        def remote(self, inputs: object, path: str, session: str, lease: str, call: bytes) -> int:
            leases_of.append(lease)
            return len(submitted)

    def get(ref: int) -> tuple[str, list[str]]:
        if ref == 1:
            raise backend_file.ray.exceptions.RayTaskError("work", "traceback", LeaseError(leases_of[0]))
        return "done", []

    machines = {"a": {"CPU": 1.0}, "b": {"CPU": 1.0}}
    seen, alive = iter([machines]), {"b": machines["b"]} if machine_lost else machines
    monkeypatch.setattr(backend_file.machines, "nodes_alive", lambda: next(seen, alive))
    monkeypatch.setattr(backend_file, "_done", lambda at_work: [ref for ref in at_work if ref == 2 or not machine_lost])
    monkeypatch.setattr(backend_file.ray, "get", get)
    monkeypatch.setattr(backend_file.ray, "cancel", lambda *_, **__: None)
    for wait in ("SAFE", "NODES"):
        monkeypatch.setattr(backend_file, wait, 0.0)
    backend._work = Work()
    assert backend._run([backend_file.Task("measuring", b"", 1, 0)], None) == {"measuring": "done"}
    assert [options.get("memory") for options in submitted] == [None, 1 if machine_lost else None]
    assert len(set(leases_of)) == 2
    said = "measuring: the connection to its machine was lost. It is repeated on another machine."
    assert caplog.messages == ([] if machine_lost else [said])
    lessor.close()


def holder(lessor: Lessor, lease: str, expiry: float) -> subprocess.Popen[str]:
    """A process that holds a lease for two minutes."""
    arguments = [str(lessor.path), lessor.session, lease, str(expiry)]
    process = subprocess.Popen([sys.executable, "-c", HOLDER, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_process_ends_when_its_lease_is_withdrawn(tmp_path: Path) -> None:
    lessor = Lessor(tmp_path)
    first, second = lessor.grant(), lessor.grant()
    withdrawn, kept = holder(lessor, first, 60), holder(lessor, second, 60)
    assert lessor.node_of(first) == "machine-7"
    lessor.withdraw([first])
    assert (withdrawn.communicate(timeout=30)[0], withdrawn.returncode) == ("", 1)
    assert kept.poll() is None
    state = Leases.read(lessor.path)
    assert (state.valid, state.withdrawn) == ({second}, {first})
    with pytest.raises(LeaseError), locked(lessor.path, lessor.session, first, "here"):
        pass
    lessor.ended(first)
    lessor.close()
    assert kept.wait(timeout=30) == 1
    # nobody has said that the second has ended, so the next run waits for it
    assert lessor.path.exists()


def test_a_process_ends_when_its_lease_is_not_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lessor = Lessor(tmp_path)
    lessor._over.set()  # as if the machine of the run were gone
    lessor._thread.join()
    clock, ended, looks, read = [0.0], threading.Event(), threading.Semaphore(0), Leases.read

    def look(path: Path) -> Leases | None:
        looks.release()
        return read(path)

    def after(seconds: float) -> bool:
        """Whether the process ends when so much time has passed and it has looked at its lease again."""
        clock[0] += seconds
        while looks.acquire(blocking=False):
            pass
        for _ in range(3):
            looks.acquire(timeout=30)
        return ended.is_set()

    monkeypatch.setattr(leases, "LOOK", 0.001)
    monkeypatch.setattr(leases.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(leases.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(Leases, "read", look)
    with locked(lessor.path, lessor.session, lessor.grant(), "machine-7", expiry=60):
        assert not after(59)
        lessor.grant()  # writes the leases again, which renews all
        assert not after(0)
        assert not after(59)
        clock[0] += 2
        assert ended.wait(timeout=30)


def test_another_folder_at_the_same_path_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "DELAY", 0.0)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    lessor, other = Lessor(here), Lessor(there)
    assert reads(lessor.path, lessor.session)
    assert not reads(other.path, lessor.session)
    assert not reads(tmp_path / "nowhere" / LEASES, lessor.session)
    for either in (lessor, other):
        either.close()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("content", ["", "0", "00000000 {}\n", 'deadbeef {"session": "a"}\n', "[]"])
def test_half_a_file_is_no_lease(tmp_path: Path, content: str) -> None:
    (tmp_path / LEASES).write_text(content)
    assert Leases.read(tmp_path / LEASES) is None
    whole = Leases("s", 3, frozenset("a"), frozenset("b"))
    whole.write(tmp_path / LEASES)
    assert Leases.read(tmp_path / LEASES) == whole
    shorter = replace(whole, valid=frozenset())
    shorter.write(tmp_path / LEASES)
    assert Leases.read(tmp_path / LEASES) == shorter


def test_a_run_waits_for_the_processes_of_an_earlier_one_and_breaks_their_locks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    job = Job("a", 0, folder.job("a", 0), "made from")
    job.folder.path.mkdir(parents=True)
    job.folder.lock_path.touch()
    assert not end_earlier(tmp_path, [job], safe=0.0)
    lessor = Lessor(tmp_path)
    process = holder(lessor, lessor.grant(), 60)
    lessor._over.set()
    assert job.folder.lock_path.exists()
    waits: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(leases.time, "sleep", lambda seconds: waits.append(seconds) or process.wait())
        assert end_earlier(tmp_path, [job])
    assert (waits, process.returncode) == ([leases.SAFE], 1)
    assert "an earlier run was ended while it worked on other machines" in caplog.text
    assert not job.folder.lock_path.exists()
    assert not list(tmp_path.glob(f"{LEASES}*"))


def test_a_pause_of_the_run_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lessor = Lessor(tmp_path)
    lessor._over.set()
    lessor._thread.join()
    begun = time.monotonic()
    assert not lessor.expired(begun)
    later = begun + leases.EXPIRY
    monkeypatch.setattr(leases.time, "monotonic", lambda: later)
    assert lessor.expired(begun)
    lease = lessor.grant()
    assert lessor.expired(begun)
    assert not lessor.expired(later)
    lessor.ended(lease)
    lessor.close()

import errno
import fcntl
import os

from stagepipe.locks import held


def test_the_lock_file_of_a_dead_process_is_no_obstacle(tmp_path, caplog):
    (tmp_path / "lock").write_text("process 1 on elsewhere")
    with held(tmp_path):
        assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()
    assert not caplog.records


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with held(tmp_path) as waited:
        assert not waited
    assert "this file system has no locks" in caplog.text

"""Operators see how the server does, and nothing of who uses it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cutaway.errors import StorageError
from cutaway.service.jobs import State
from cutaway.service.telemetry import CONTENT_TYPE, REQUEST, Telemetry, logs

KEY = f"cut_{'0' * 15}7_{'ab' * 32}"
LABELS = {"model", "kind", "route", "state", "le"}


def read(telemetry: Telemetry) -> dict[str, float]:
    """Each sample, as "name label label" -> value."""
    found = {}
    for family in text_string_to_metric_families(telemetry.text().decode()):
        for sample in family.samples:
            assert set(sample.labels) <= LABELS
            found[" ".join([sample.name, *sample.labels.values()])] = sample.value
    return found


def test_what_happens_is_counted() -> None:
    telemetry = Telemetry()
    telemetry.job("graph", State.DONE, 0.2, 0.03)
    telemetry.job("graph", State.DONE, 20.0, 0.03)
    telemetry.job("method", State.CANCELLED, 1.0, 0.0)
    telemetry.batch(16)
    telemetry.loaded("gpt2", 3.0)
    telemetry.evicted("gpt2")
    telemetry.request("/v1/jobs/{id}", 200, 0.01)
    telemetry.request("/v1/jobs/{id}", 429, 0.01)
    telemetry.sent(1000)
    telemetry.sent(24)
    found = read(telemetry)
    assert found["cutaway_jobs_finished_total graph done"] == 2 and found["cutaway_jobs_finished_total method cancelled"] == 1
    assert found["cutaway_job_wait_seconds_bucket graph 0.25"] == 1 and found["cutaway_job_wait_seconds_bucket graph 30.0"] == 2
    assert found["cutaway_job_run_seconds_sum graph"] == pytest.approx(0.06)
    assert "cutaway_job_run_seconds_count method" not in found  # it did not run
    assert found["cutaway_batch_jobs_sum"] == 16
    assert found["cutaway_model_load_seconds_sum gpt2"] == 3 and found["cutaway_model_evictions_total gpt2"] == 1
    assert found["cutaway_requests_total /v1/jobs/{id} 429"] == 1 and found["cutaway_request_seconds_count /v1/jobs/{id}"] == 2
    assert found["cutaway_sent_bytes_total"] == 1024


def test_what_stands_is_asked_for_at_each_reading() -> None:
    telemetry, models = Telemetry(), {"gpt2": 500}
    telemetry.watch(lambda: {State.QUEUED: len(models)}, lambda: models)
    assert read(telemetry)["cutaway_model_bytes gpt2"] == 500
    models["pythia"] = 10
    found = read(telemetry)
    assert found["cutaway_model_bytes pythia"] == 10 and found["cutaway_jobs queued"] == 2 and found["cutaway_jobs running"] == 0
    models.pop("gpt2")
    assert "cutaway_model_bytes gpt2" not in read(telemetry)


def test_a_table_that_fails_does_not_hide_the_rest() -> None:
    telemetry = Telemetry()

    def failing() -> dict[State, int]:
        raise StorageError("Count jobs.", "a full disk", "room")

    telemetry.watch(failing, lambda: {"gpt2": 500})
    found = read(telemetry)
    assert "cutaway_jobs queued" not in found and found["cutaway_model_bytes gpt2"] == 500


def test_two_servers_in_one_process_count_for_themselves() -> None:
    one, other = Telemetry(), Telemetry()
    one.sent(5)
    assert read(other)["cutaway_sent_bytes_total"] == 0 and CONTENT_TYPE.startswith("text/plain")


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    root, named = logging.getLogger(), [logging.getLogger(name) for name in ("cutaway", "uvicorn")]
    before = root.handlers, root.level, [one.level for one in named]
    yield
    root.handlers = before[0]
    root.setLevel(before[1])
    for one, level in zip(named, before[2], strict=True):
        one.setLevel(level)


@pytest.mark.usefixtures("_logging_as_it_was")
def test_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs("error")
    logs("info")  # in place of the other
    log = logging.getLogger("cutaway.service")
    token = REQUEST.set("r1")
    log.info("key %s\nrefused", KEY, extra={"data": {"model": "gpt2", "given": KEY}})
    REQUEST.reset(token)
    try:
        raise ValueError(f"Bearer {KEY}")
    except ValueError:
        log.exception("failed")
    log.debug("too quiet")
    logging.getLogger("another.library").info("not ours")
    logging.getLogger("another.library").warning("not ours")
    text = capsys.readouterr().err
    first, second, third = map(json.loads, text.splitlines())
    assert KEY[-64:] not in text
    assert first["text"] == "key key 0000000000000007\nrefused" and first["given"] == "key 0000000000000007"
    assert (first["request"], first["model"], first["level"], first["logger"]) == ("r1", "gpt2", "info", "cutaway.service")
    assert first["time"].endswith("Z") and first["time"][:2] == "20" and len(first["time"]) == 24
    assert "request" not in second and "ValueError" in second["error"]
    assert third["logger"] == "another.library" and third["level"] == "warning"

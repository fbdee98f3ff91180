"""Owns the loading of a policy: file -> document -> compiled policy -> its own tests."""

import hashlib
import time
from pathlib import Path

from masque_relay.contract.address import Target
from masque_relay.control.policy.compile import CompiledPolicy
from masque_relay.control.policy.document import DocumentReader, PolicyTest
from masque_relay.control.policy.rules import Decision, Query
from masque_relay.control.toml_table import TomlSource


def load_policy(path: Path, *, now_s: float | None = None) -> CompiledPolicy:
    """Return the compiled policy of a file, whose own tests have passed.

    ``now_s`` (seconds since the epoch; None = the system clock) is the moment at which tests
    without ``at`` are asked.

    Raises:
        ConfigError: the file can't be read, says something wrong, or one of its tests fails. All
            problems are named.
    """
    return _compile(TomlSource.open(path), now_s)


def parse_policy(
    text: str, *, file: str = "policy.toml", now_s: float | None = None
) -> CompiledPolicy:
    """Return the compiled policy of a text; as :func:`load_policy`.

    Raises:
        ConfigError: as there.
    """
    return _compile(TomlSource(text, file=file), now_s)


def describe_decision(decision: Decision) -> str:
    """Return ``allow by rule 'web'``, ``deny by no rule``, … for people."""
    by = "no rule" if decision.rule is None else f"rule {decision.rule.name!r}"
    return f"{decision.outcome.value} by {by}"


def _compile(source: TomlSource, now_s: float | None) -> CompiledPolicy:
    document = DocumentReader(source).read()
    digest = hashlib.sha256(source.text.encode()).hexdigest()[:12]
    policy = CompiledPolicy(document, digest=digest)
    moment_s = time.time() if now_s is None else now_s
    for index, test in enumerate(document.tests):
        complaint = _run(policy, test, moment_s)
        if complaint is not None:
            source.report(("test", index), *complaint)
    source.raise_problems()
    return policy


def _run(policy: CompiledPolicy, test: PolicyTest, now_s: float) -> tuple[str, str] | None:
    decision = policy.decide(
        Query(
            subject=test.subject,
            groups=test.groups,
            method=test.method,
            name=test.name,
            address=test.address,
            network=test.network,
            port=test.port,
            source=test.source,
            now_s=now_s if test.at_s is None else test.at_s,
        )
    )
    decided_by = None if decision.rule is None else decision.rule.name
    if decision.outcome is test.expect and test.rule in {None, decided_by}:
        return None
    expected = test.expect.value + (f" by rule {test.rule!r}" if test.rule else "")
    target = _target(test)
    detail = f"expected {expected} for {target}, got {describe_decision(decision)}"
    if decision.detail:
        detail += f" ({decision.detail})"
    hint = (
        f"ghostctl policy explain --policy {policy.file} --as {test.subject} {test.method} {target}"
    )
    return f"the test fails: {detail}", hint


def _target(test: PolicyTest) -> str:
    host = test.name if test.name is not None else test.address
    if test.network is not None or (host is not None and test.port is None):
        return str(host if host is not None else test.network)
    if host is None or test.port is None:
        return "no single target"
    return str(Target(host=host, port=test.port))

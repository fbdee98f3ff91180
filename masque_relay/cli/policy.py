"""Owns `ghostctl policy`: check a policy file, and explain what it decides."""

import time
from collections.abc import Iterable
from datetime import datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NoReturn

import click

from masque_relay.cli.output import ExitCode, fail, json_option, print_json, print_table
from masque_relay.contract.address import IPAddress
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.request import Method
from masque_relay.control.policy import CompiledPolicy, load_policy
from masque_relay.control.policy.addresses import IPNetwork, unwrap
from masque_relay.control.policy.document import parse_query_target
from masque_relay.control.policy.explain import Explanation, Match, Step, explain
from masque_relay.control.policy.rules import Outcome, PatternError, Query
from masque_relay.control.policy.scope import is_scope_text, parse_scope

DEFAULT_POLICY_FILES = (Path("policy.toml"), Path("state", "policy.toml"))
"""Where explain looks: here, and where `make run` keeps the policy of the development relay."""


@click.group()
def policy() -> None:
    """Check a policy file, and explain what it decides.

    \b
    Examples:
      ghostctl policy check policy.toml
      ghostctl policy explain --as alice connect-udp example.org:443
    """


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Read FILE, name everything that is wrong in it, and run its own tests.

    Exit code 0: the file is good. 2: it is not, and the relay would refuse it.

    \b
    Examples:
      ghostctl policy check policy.toml
      ghostctl policy check --json /etc/ghostwire/policy.toml
    """
    loaded = _load(file, as_json=as_json)
    if as_json:
        print_json(
            {
                "ok": True,
                "file": str(file),
                "digest": loaded.digest,
                "rules": len(loaded.rules),
                "groups": len(loaded.groups),
                "tests": len(loaded.tests),
                "warnings": list(loaded.warnings),
            }
        )
        return
    click.echo(
        f"{file}: good ({_count(len(loaded.rules), 'rule')}, "
        f"{_count(len(loaded.groups), 'group')}, {_count(len(loaded.tests), 'test')} passed)"
    )
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not loaded.tests:
        click.echo("hint: add [[test]] tables, so that the next edit can't open what you closed")


@policy.command("explain")
@click.option(
    "--policy",
    "file",
    type=click.Path(path_type=Path),
    help="The policy file.  [default: policy.toml, or else state/policy.toml]",
)
@click.option("--as", "subject", required=True, help="Who asks: the subject of the credential.")
@click.option("--group", "groups", multiple=True, help="A group that the credential names.")
@click.option("--address", "address_text", help="What the name resolves to.")
@click.option("--source", "source_text", help="Where the client comes from.")
@click.option("--at", "at_text", help="When, such as 2026-01-31T08:00:00Z. Default: now.")
@click.argument("method", type=click.Choice([method.value for method in Method]))
@click.argument("target", required=False)
@json_option
def explain_command(
    file: Path | None,
    subject: str,
    groups: tuple[str, ...],
    address_text: str | None,
    source_text: str | None,
    at_text: str | None,
    method: str,
    target: str | None,
    as_json: bool,
) -> None:
    """Say which rule decides about METHOD to TARGET, and why each rule before it did not.

    TARGET is HOST:PORT. For connect-ip it is what the tunnel is limited to (a prefix, a name or *),
    or with a port one packet inside it.

    Without --address a name may be "pending": some rule goes by the address that it resolves to.

    Exit code 0: allowed or pending. 3: denied. 2: the question or the policy is not well-formed.

    \b
    Examples:
      ghostctl policy explain --as alice connect-udp example.org:443
      ghostctl policy explain --policy /etc/ghostwire/policy.toml --as bob --group staff \\
          connect-udp intranet.example:443 --address 10.0.0.7
      ghostctl policy explain --as alice connect-ip 10.0.0.0/8
      ghostctl policy explain --as alice connect-ip 10.0.0.1:22
    """
    query = _query(subject, groups, method, target, address_text, source_text, at_text)
    explanation = explain(_load(file or _default_file(), as_json=as_json), query)
    if as_json:
        print_json(_as_json(explanation))
    else:
        _print(explanation, query)
    if explanation.decision.outcome is Outcome.DENY:
        raise SystemExit(int(ExitCode.REFUSED))


def _default_file() -> Path:
    found = next((file for file in DEFAULT_POLICY_FILES if file.exists()), None)
    if found is None:
        fail(
            "which policy? there is no policy.toml here",
            hint="name one with --policy FILE",
            exit_code=ExitCode.USAGE,
        )
    return found


def _query(
    subject: str,
    groups: tuple[str, ...],
    method: str,
    target: str | None,
    address_text: str | None,
    source_text: str | None,
    at_text: str | None,
) -> Query:
    name: str | None = None
    address = _address(address_text, "--address")
    port: int | None = None
    network: IPNetwork | None = None
    if target is not None and method == Method.CONNECT_IP and is_scope_text(target):
        try:
            name, network = parse_scope(target)
        except PatternError as error:
            fail(f"TARGET: {error}", hint=error.hint, exit_code=ExitCode.USAGE)
        if address is not None and name is None:
            fail("--address goes with a TARGET that is a name", exit_code=ExitCode.USAGE)
        if address is not None:
            network, address = ip_network(address), None
    elif target is not None:
        try:
            name, literal, port = parse_query_target(target)
        except PatternError as error:
            fail(f"TARGET: {error}", hint=error.hint, exit_code=ExitCode.USAGE)
        if literal is not None and address is not None:
            fail("--address goes with a TARGET that is a name", exit_code=ExitCode.USAGE)
        address = literal if literal is not None else address
    elif method in {Method.CONNECT_UDP, Method.CONNECT_TCP}:
        hint = f"ghostctl policy explain --as {subject} {method} example.org:443"
        fail(f"{method} needs a TARGET", hint=hint, exit_code=ExitCode.USAGE)
    elif address is not None:
        fail("--address needs a TARGET that is a name", exit_code=ExitCode.USAGE)
    return Query(
        subject=subject,
        groups=groups,
        method=Method(method),
        name=name,
        address=address,
        network=network,
        port=port,
        source=_address(source_text, "--source"),
        now_s=_moment(at_text),
    )


def _address(text: str | None, option: str) -> IPAddress | None:
    if text is None:
        return None
    try:
        return unwrap(ip_address(text))
    except ValueError:
        fail(f"{option}: {text!r} is not an IP address", exit_code=ExitCode.USAGE)


def _moment(text: str | None) -> float:
    if text is None:
        return time.time()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        hint = "write it like 2026-01-31T08:00:00Z"
        fail(f"--at: {text!r} is not a time with offset", hint=hint, exit_code=ExitCode.USAGE)
    return moment.timestamp()


def _load(file: Path, *, as_json: bool) -> CompiledPolicy:
    try:
        return load_policy(file)
    except ConfigError as error:
        _fail_with_problems(file, error.problems, as_json=as_json)


def _fail_with_problems(file: Path, problems: Iterable[Problem], *, as_json: bool) -> NoReturn:
    found = list(problems)
    if as_json:
        print_json(
            {
                "ok": False,
                "file": str(file),
                "problems": [
                    {
                        "file": problem.file,
                        "line": problem.line,
                        "key_path": problem.key_path,
                        "detail": problem.detail,
                        "hint": problem.hint,
                    }
                    for problem in found
                ],
            }
        )
        raise SystemExit(int(ExitCode.USAGE))
    for problem in found:
        click.echo(str(problem), err=True)
    fail(
        f"{file} can't be used: {_count(len(found), 'problem')}",
        hint="what may stand in a policy: docs/reference/policy.md",
        exit_code=ExitCode.USAGE,
    )


def _print(explanation: Explanation, query: Query) -> None:
    decision = explanation.decision
    words = {
        Outcome.ALLOW: "ALLOW",
        Outcome.DENY: "DENY",
        Outcome.PENDING: f"PENDING: it depends on {_what_is_open(query)}",
    }
    by = "no rule matched" if decision.rule is None else f"rule {decision.rule.name!r}"
    click.echo(f"{words[decision.outcome]} ({by})")
    if decision.detail:
        click.echo(f"  {decision.detail}")
    if explanation.steps:
        click.echo("")
        print_table(
            None,
            ("line", "rule", "action", "", "why"),
            [_row(step) for step in explanation.steps],
        )
    if decision.outcome is Outcome.PENDING:
        is_packets = query.method is Method.CONNECT_IP
        missing = "a TARGET such as 10.0.0.1:22" if is_packets else "--address"
        click.echo(f"\nnext: ask again with {missing}")


def _what_is_open(query: Query) -> str:
    if query.method is Method.CONNECT_IP:
        return "each packet: the tunnel opens, and its packets are decided one by one"
    return "the address that the name resolves to"


def _row(step: Step) -> tuple[object, ...]:
    action = "allow" if step.rule.allow else "deny"
    mark = {Match.YES: "yes", Match.NO: "no", Match.PERHAPS: "perhaps", Match.BLOCKED: "blocked"}
    return (step.rule.line or "", step.rule.name, action, mark[step.match], step.why)


def _as_json(explanation: Explanation) -> dict[str, object]:
    decision = explanation.decision
    return {
        "outcome": decision.outcome.value,
        "rule": None if decision.rule is None else decision.rule.name,
        "reason": None if decision.reason is None else decision.reason.value,
        "detail": decision.detail,
        "steps": [
            {
                "rule": step.rule.name,
                "line": step.rule.line,
                "action": "allow" if step.rule.allow else "deny",
                "match": step.match.name.lower(),
                "why": step.why,
            }
            for step in explanation.steps
        ],
    }


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""Owns a real nginx that runs one of the templates under nginx/."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import pytest

from tests.support.processes import run_process

TEMPLATES = Path(__file__).parents[2] / "nginx"
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@contextmanager
def run_nginx(template: str, directory: Path, **values: object) -> Generator[None]:
    """Run nginx with one template while the block runs.

    Args:
        template: the file's name.
        directory: for its configuration, logs and temporary files.
        values: of the template's variables, in lower case.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or not STREAM_MODULE.exists():
        pytest.skip("needs nginx with its stream module: .ci/run installs it")
    directory.mkdir(parents=True, exist_ok=True)
    # As `envsubst` does it when it is told the names: nginx's own variables stay.
    block = Template((TEMPLATES / template).read_text(encoding="utf-8")).safe_substitute(
        {name.upper(): str(value) for name, value in values.items()}
    )
    # Of Debian's package; as root it would change to a user who may not read a test's directory.
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration, pid_file = directory / "nginx.conf", directory / "nginx.pid"
    configuration.write_text(
        f"load_module {STREAM_MODULE};\nerror_log {directory}/error.log;\npid {pid_file};\n"
        "daemon off;\nmaster_process off;\nevents { worker_connections 256; }\n"
        + block.replace("\nhttp {", f"\nhttp {{ access_log off; {temporary}"),
        encoding="utf-8",
    )
    with run_process(
        [program, "-p", str(directory), "-c", str(configuration)],
        log=directory / "output.log",
        ready=lambda: pid_file.exists() or None,
        exit_code=0,
    ):
        yield

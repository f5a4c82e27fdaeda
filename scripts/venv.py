"""Make .venv hold what a lock says: `python3 scripts/venv.py run|dev`, called by every target of the Makefile.

Does nothing when .venv already holds this lock's content. Parallel calls wait for one another. Uses uv where present,
else venv and pip. Must start on any Python 3.6 and later, to be able to say that it is too old.
"""

import os
import shutil
import subprocess
import sys
import time

try:
    import fcntl
except ImportError:
    sys.exit("make: this needs a Unix-like system (got %s); use Linux, macOS or WSL" % sys.platform)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
CACHE = os.path.join(ROOT, ".cache")  # the guard against parallel calls, and the log of a failed one
LOCKS = {"run": "requirements.lock", "dev": "requirements-dev.lock"}
OLDEST = (3, 11)
CANDIDATES = ("python3.11", "python3.12", "python3.13", "python3.14", "python3", sys.executable)
QUIET_S = 2.0  # shorter work needs no progress line


def main(kind):
    """Bring .venv up to date for `kind`: what runs, or that and the developer's tools."""
    if up_to_date(kind):
        return
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "venv.guard"), "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # another make may be at it; the kernel lets go when its holder dies
        if up_to_date(kind):
            return
        if not works():
            create()
        install(kind)


def stamp(kind):
    """Name the file that holds the content of the lock last installed."""
    return os.path.join(VENV, "installed-" + LOCKS[kind])


def up_to_date(kind):
    """Tell whether .venv holds the lock's content; the developer's lock covers the other one."""
    kinds = {"run": ("run", "dev"), "dev": ("dev",)}[kind]
    return os.path.exists(PYTHON) and any(read(stamp(k)) == read(os.path.join(ROOT, LOCKS[k])) for k in kinds)


def read(path):
    """Return the bytes of a file, None if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def works():
    """Tell whether .venv is there, whole, and new enough (an interrupted creation leaves half of one)."""
    return os.path.exists(os.path.join(VENV, "pyvenv.cfg")) and version(PYTHON) >= OLDEST


def version(python):
    """Return (major, minor) of an interpreter; (0, 0) if it does not run."""
    script = "import sys; print(sys.version_info[0], sys.version_info[1])"
    try:
        text = subprocess.check_output([python, "-c", script], stderr=subprocess.DEVNULL, universal_newlines=True)
        major, minor = text.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0, 0


def create():
    """Create .venv with the first interpreter that is new enough."""
    python = next((p for p in map(shutil.which, CANDIDATES) if p and version(p) >= OLDEST), None)
    if python is None:
        sys.exit(
            "make: Tidings needs Python %d.%d or later (got %s); install it, e.g. 'apt install python3.11 "
            "python3.11-venv', 'brew install python@3.11' or 'uv python install 3.11'"
            % (OLDEST + (sys.version.split()[0],))
        )
    uv = shutil.which("uv")
    if uv:
        run("creating .venv", [uv, "venv", "--quiet", "--allow-existing", "--python", python, VENV], 0)
    else:
        run("creating .venv", [python, "-m", "venv", "--clear", VENV], 0)


def install(kind):
    """Install the lock, checking every hash, and stamp .venv with its content."""
    lock = os.path.join(ROOT, LOCKS[kind])
    content = read(lock)  # the stamp is what was read before installing: an edit meanwhile installs again
    for k in LOCKS:
        if os.path.exists(stamp(k)):
            os.remove(stamp(k))  # a crash from here on leaves no stamp, hence a new try
    uv = shutil.which("uv")
    if uv:
        command = [uv, "pip", "install", "--python", PYTHON, "--no-deps", "--require-hashes", "-r", lock]
    else:
        if subprocess.call([PYTHON, "-c", "import pip"], stderr=subprocess.DEVNULL):  # .venv was made by uv, now gone
            run("adding pip", [PYTHON, "-m", "ensurepip"], 0)
        command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
        command += ["--no-deps", "--require-hashes", "-r", lock]
    total = content.count(b"==")
    run("installing %d packages into .venv" % total, command, total)
    with open(stamp(kind) + ".new", "wb") as file:
        file.write(content)
    os.rename(stamp(kind) + ".new", stamp(kind))


def run(what, command, total):
    """Run a command quietly; say how far it is once it takes longer than two seconds, and why if it fails."""
    log = os.path.join(CACHE, "venv.log")
    # UV_NATIVE_TLS: trust what pip trusts, the machine's authorities.
    env = dict(os.environ, UV_PYTHON_DOWNLOADS="never", UV_NATIVE_TLS="1", PYTHONUNBUFFERED="1")
    env.pop("PIP_REQUIRE_VIRTUALENV", None)
    started = time.monotonic()
    said = started - 10 + QUIET_S
    live = sys.stderr.isatty()
    with open(log, "wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=env)
        try:
            while child.poll() is None:
                time.sleep(0.1)
                now = time.monotonic()
                if now - started > QUIET_S and now - said > (0.5 if live else 10):
                    said = now
                    tell(what, read(log) or b"", total, now - started, live)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if live and time.monotonic() - started > QUIET_S:
        sys.stderr.write("\r\033[K")
    if child.returncode:
        tail = (read(log) or b"").decode("utf-8", "replace").splitlines()[-15:]
        sys.exit(
            "\n".join(tail + ["make: %s failed (exit %d); the whole log is .cache/venv.log" % (what, child.returncode)])
        )
    if time.monotonic() - started > QUIET_S:
        sys.stderr.write("%s: done in %.0f s\n" % (what, time.monotonic() - started))
    os.remove(log)


def tell(what, log, total, seconds, live):
    """Print one line of progress: pip names each package when it starts on it."""
    lines = (b"Collecting ", b"Ignoring ")  # the latter: not for this Python or system
    collected = sum(log.count(b"\n" + line) + log.startswith(line) for line in lines)
    at = ", %d of %d read" % (collected, total) if collected else ""
    if collected >= total > 0:
        at = ", unpacking"
    line = "%s%s (%.0f s)" % (what, at, seconds)
    sys.stderr.write("\r\033[K" + line if live else line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("\nmake: stopped; the next call goes on from here")

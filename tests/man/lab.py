"""A machine of its own for live tests: /mnt, /srv, /var/tmp and the registry of pools are empty and private,
and whatever is still running at the end is ended. Loop devices belong to the whole machine; what is left of
ours is detached.

A test calls enter() first: it starts itself again inside. Skips (exit 77) where that is not possible.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

SKIP = 77
INSIDE = 'VSNAP_TEST_LAB'
PRIVATE = ['/mnt', '/srv', '/var/tmp']
TIMEOUT_S = 300
MOUNT = Path('/mnt/lab')
USER = 65534  # nobody
FOREIGN_MOUNTS: set[str] = set()  # that were there before the test


def skip(reason: str):
    print(f'skipped: {reason}')
    sys.exit(SKIP)


def enter(program: str):
    """Returns inside the lab, with `vsnap` in the PATH."""
    if os.geteuid() != 0:
        skip('needs root')
    if not Path('/dev/fuse').exists():
        skip('needs /dev/fuse')
    if INSIDE not in os.environ:
        alone = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc']
        again = [sys.executable, '-B', *sys.argv]
        with tempfile.NamedTemporaryFile('r') as left:
            code = subprocess.run(alone + again, env=os.environ | {INSIDE: left.name}).returncode
            for device in left.read().split():
                subprocess.run(['losetup', '-d', device])
        sys.exit(code)
    for directory in PRIVATE:
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=1777', 'tmpfs', directory], check=True)
    bin_dir = Path('/srv/bin')
    bin_dir.mkdir()
    shutil.copy(program, bin_dir / 'vsnap')  # where every user may run it
    os.environ['PATH'] = f'{bin_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
    os.environ['VSNAP_STATE_DIR'] = '/srv/state'
    os.environ['VSNAP_RUNTIME_DIR'] = '/srv/run'
    os.chdir('/srv')
    FOREIGN_MOUNTS.update(mount.split()[0] for mount in mounts())


def mounts() -> list[str]:
    return Path('/proc/self/mountinfo').read_text().splitlines()


def our_loop_devices() -> list[str]:
    devices = []
    for entry in Path('/sys/block').glob('loop*/loop/backing_file'):
        try:
            if entry.read_text().startswith(f'{MOUNT}/'):
                devices.append(f'/dev/{entry.parts[3]}')
        except OSError:
            pass  # detached meanwhile
    return devices


def note_loop_devices():
    """For the process outside: it cannot tell which ones are ours, since it does not see our mount."""
    Path(os.environ[INSIDE]).write_text(' '.join(our_loop_devices()))


def run(script: str) -> str:
    """Runs a script as a root shell would, but ends at the first error; its output, or AssertionError."""
    return _run(['bash', '-euo', 'pipefail', '-c', script], os.environ.copy())


def run_as_user(script: str) -> str:
    """As nobody, with a home, and with the environment of a login."""
    home = Path('/srv/home')
    if not home.exists():
        for directory in (home, home / 'run'):
            directory.mkdir(mode=0o700)
            os.chown(directory, USER, USER)
        open_fuse_to_everybody()
    env = {'PATH': os.environ['PATH'], 'HOME': str(home), 'XDG_RUNTIME_DIR': str(home / 'run')}
    as_user = ['setpriv', f'--reuid={USER}', f'--regid={USER}', '--clear-groups']
    return _run([*as_user, 'bash', '-euo', 'pipefail', '-c', f'cd; {script}'], env)


def open_fuse_to_everybody():
    """As udev does on any installed system; here for this lab only."""
    if os.stat('/dev/fuse').st_mode & 0o666 == 0o666:
        return
    device = '/srv/fuse'
    os.mknod(device, 0o20666, os.stat('/dev/fuse').st_rdev)
    os.chmod(device, 0o666)
    subprocess.run(['mount', '--bind', device, '/dev/fuse'], check=True)


def _run(command: list[str], env: dict[str, str]) -> str:
    # Not through a pipe: a daemon that a script leaves running would keep it open.
    with open('/srv/output', 'w+') as output:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
        note_loop_devices()
        output.seek(0)
        text = output.read()
    assert code == 0, f'{"no end" if code is None else f"exit {code}"} of\n{command[-1]}\n{text}'
    return text


def tear_down():
    """After a failure in the middle: nothing may stay frozen or mounted, so that the loop devices can go."""
    ours = [fields[4] for line in mounts() if (fields := line.split())[0] not in FOREIGN_MOUNTS]
    for mount in reversed(ours):
        if mount.startswith('/mnt/') and mount != str(MOUNT):
            subprocess.run(['fsfreeze', '-u', mount], stderr=subprocess.DEVNULL)
            subprocess.run(['umount', mount])
    for device in our_loop_devices():
        subprocess.run(['losetup', '-d', device])
    if str(MOUNT) in ours:
        subprocess.run(['umount', str(MOUNT)])
    note_loop_devices()

#!/usr/bin/env python3
"""Hosts that share a pool: how they get in, their sessions, and how they are taken out.

Two hosts and a switch are network namespaces of their own, joined by two veth pairs and a bridge. Each
namespace lives as long as a process that the test starts in it, so nothing of it is left when that ends.
alpha has the pool mounted and coordinates it; beta runs host_link, which has a session and says what happens.
"""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import support

HOST_LINK = Path(os.environ.get("VSNAP_HOST_LINK", support.ROOT / "build/release/bin/host_link")).resolve()
PORT = 7800
LEASE_S = 2


class Host:
    """A network namespace, and a state and runtime directory of its own."""

    def __init__(self, test, name, address=None, beside=None):
        self.test, self.lab, self.name, self.address = test, test.lab, name, address
        lab = test.lab
        self.holder = beside.holder if beside else test.started("unshare", "--net", "sleep", "infinity")
        support.wait_until(self.has_own_network, what=f"namespace of {name}")
        # alpha's are the lab's own, where its cleaning looks for pools
        self.state = lab.path / ("state" if name == "alpha" else f"state-{name}")
        self.runtime = lab.path / ("run" if name == "alpha" else f"run-{name}")

    def has_own_network(self):
        mine = os.readlink("/proc/self/ns/net")
        return os.readlink(f"/proc/{self.holder.pid}/ns/net") != mine

    def words(self, *argv):
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "env", f"VSNAP_STATE_DIR={self.state}",
                f"VSNAP_RUNTIME_DIR={self.runtime}", *argv]

    def run(self, *argv, **options):
        return self.lab.run(*self.words(*argv), **options)

    def vsnap(self, *arguments, **options):
        return self.run(support.VSNAP, *arguments, **options)

    def daemon_pid(self, pool="lab"):
        return json.loads((self.runtime / f"{pool}.json").read_text())["pid"]

    def json(self, *arguments):
        return json.loads(self.vsnap(*arguments, "--json").out)

    def ip(self, *arguments):
        self.run("ip", *arguments)


class HostLink:
    """host_link on a host: what it says, line by line."""

    def __init__(self, host, pool="lab"):
        self.lines = []
        self.process = host.test.started(*host.words(HOST_LINK, pool), stdin=subprocess.PIPE)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for line in self.process.stdout:
                self.lines.append(line.strip())
        except ValueError:
            pass  # the test is over

    def waits_for(self, start, after=0, seconds=30):
        def found():
            return [line for line in self.lines[after:] if line.startswith(start)]

        try:
            support.wait_until(found, seconds, f"host_link says {start}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it said {self.lines}") from None
        return found()[0]

    def ask(self, line):
        """Its answer, the next line that begins with ok or error."""
        before = len(self.lines)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

        def answers():
            return [said for said in self.lines[before:] if said.split()[0] in ("ok", "error")]

        support.wait_until(answers, 40, f"an answer to {line}")
        return answers()[0]

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)


class HostsTest(support.LabTest):
    lease_s = LEASE_S

    def setUp(self):
        super().setUp()
        self.switch = Host(self, "switch")
        self.alpha = Host(self, "alpha", "10.77.0.1")
        self.beta = Host(self, "beta", "10.77.0.2")
        self.switch.ip("link", "add", "br0", "type", "bridge")
        self.switch.ip("link", "set", "br0", "up")
        for host in (self.alpha, self.beta):
            self.switch.ip("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns",
                           str(host.holder.pid))
            self.switch.ip("link", "set", host.name, "master", "br0", "up")
            host.ip("addr", "add", f"{host.address}/24", "dev", "eth0")
            host.ip("link", "set", "eth0", "up")
            host.ip("link", "set", "lo", "up")
        self.member = self.lab.path / "lab.img"
        self.alpha.vsnap("pool", "create", "lab", self.member, "--size", "64M")
        self.point = self.lab.directory("mnt-lab")

    def started(self, *words, **options):
        """A process that ends with the test."""
        process = self.lab.start(*words, **options)

        def end():
            process.kill()
            process.wait(30)
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()

        self.addCleanup(end)
        return process

    def share(self, *options):
        self.alpha.vsnap("mount", "lab", self.point, "--listen", f"tcp://{self.alpha.address}:{PORT}",
                         "--lease", f"{self.lease_s}s", *options)

    def invite(self, *options):
        return self.alpha.vsnap("host", "invite", "lab", *options).out.strip()

    def join(self, host=None, *options, **more):
        return (host or self.beta).vsnap("host", "join", self.invite(), "--name", (host or self.beta).name,
                                         *options, **more)

    def hosts(self):
        return {host["name"]: host for host in self.alpha.json("host", "list", "lab")["hosts"]}

    def link(self):
        link = HostLink(self.beta)
        link.waits_for("phase normal")
        return link

    def state_of(self, name):
        return self.hosts()[name]["state"]


class GettingIn(HostsTest):
    def test_a_host_is_invited_joins_has_a_session_and_is_revoked(self):
        self.share()
        out = self.join(None, "--member", self.member).out
        self.mentions(out, "joined as beta", self.alpha.address, self.member)
        entry = json.loads((self.beta.state / "shared/lab.json").read_text())
        self.assertEqual(entry["members"], [str(self.member)])
        self.assertEqual(entry["host"], "beta")
        self.assertEqual(self.state_of("beta"), "away")
        link = self.link()
        listed = self.hosts()["beta"]
        self.assertEqual((listed["state"], listed["address"], listed["lag"]), ("live", self.beta.address, 0))
        self.assertEqual(listed["session"], int(link.waits_for("began").split()[2]))
        self.assertLessEqual(listed["lease"], LEASE_S * 1.05)

        plan = self.alpha.vsnap("host", "revoke", "-n", "lab", "beta").out
        self.mentions(plan, "would revoke beta")
        self.assertEqual(self.state_of("beta"), "live")
        self.alpha.vsnap("host", "revoke", "-y", "lab", "beta")
        link.waits_for("ended revoked")
        self.assertEqual(self.hosts(), {})
        again = HostLink(self.beta)
        support.wait_until(lambda: again.ask("refused").endswith("at-the-gate"), what="not let in")
        self.assertGreater(self.alpha.json("host", "list", "lab")["refused_at_gate"], 0)
        self.alpha.vsnap("host", "revoke", "lab", "beta", code=3)

    def test_a_token_is_used_once_but_its_host_may_repeat(self):
        self.share()
        token = self.invite("--name", "beta")
        self.assertEqual(self.state_of("beta"), "invited")
        for _ in range(2):
            self.assertEqual(self.beta.json("host", "join", token)["name"], "beta")
        gamma = Host(self, "gamma", beside=self.beta)  # another one behind the same address
        refused = gamma.vsnap("host", "join", token, code=1)
        self.mentions(refused.err, "has expired, or was used")
        self.assertFalse((gamma.state / "shared/lab.json").exists())
        self.assertEqual(list(self.hosts()), ["beta"])

    def test_a_token_expires_and_can_come_by_standard_input(self):
        self.share()
        token = self.invite("--expires", "100ms")
        time.sleep(0.2)
        self.mentions(self.beta.vsnap("host", "join", token, code=1).err, "has expired, or was used")
        self.beta.vsnap("host", "join", "-", stdin=self.invite() + "\n")
        refused = self.beta.vsnap("host", "join", token[:-3], code=2)
        self.assertNotIn(token[20:60], refused.err)
        self.mentions(self.beta.vsnap("host", "join", "-", stdin="", code=2).err, "no token")

    def test_a_key_file_that_others_can_read_is_refused(self):
        self.share()
        self.join()
        key = self.beta.state / "host.key"
        self.assertEqual(key.stat().st_mode & 0o7777, 0o600)
        key.chmod(0o640)
        refused = self.beta.vsnap("host", "join", self.invite(), "--name", "beta", code=1)
        self.mentions(refused.err, "others can use it", f"chmod 600 {key}")
        key.chmod(0o600)
        self.join()
        self.alpha.vsnap("umount", "lab")
        (self.alpha.state / "host.key").chmod(0o644)
        refused = self.alpha.vsnap("mount", "lab", self.point, "--listen",
                                   f"tcp://{self.alpha.address}:{PORT}", code=1)
        self.mentions(refused.err, "others can use it")
        self.assertFalse(os.path.ismount(self.point))

    def test_another_key_is_not_let_in(self):
        self.share()
        self.join()
        self.link().ask("end")
        (self.beta.state / "host.key").unlink()  # another one is made
        stranger = HostLink(self.beta)
        support.wait_until(lambda: stranger.ask("refused").endswith("at-the-gate"), what="not let in")
        self.assertFalse([line for line in stranger.lines if line.startswith("began")])
        self.assertEqual(self.state_of("beta"), "left")

    def test_members_are_found_by_what_is_on_them(self):
        device = self.lab.losetup(self.member)
        self.share()
        self.assertIn(device, self.beta.json("host", "join", self.invite(), "--name", "beta")["members"])
        other = self.lab.path / "other.img"
        self.alpha.vsnap("pool", "create", "other", other, "--size", "64M")
        refused = self.join(None, "--member", other, code=2)
        self.mentions(refused.err, "a member of pool other")

    def test_whoever_listens_is_not_hurt_by_what_is_no_peer(self):
        self.share()
        code = ("import os, socket\n"
                "for n in (0, 1, 10, 64, 4096, 1 << 20):\n"
                f"    s = socket.create_connection(('{self.alpha.address}', {PORT}))\n"
                "    try: s.sendall(os.urandom(n))\n"
                "    except OSError: pass\n"
                "    s.close()\n")
        self.beta.run("python3", "-c", code)
        self.join()
        self.link()

    def test_a_pool_that_is_not_shared_invites_nobody_but_knows_its_hosts(self):
        self.alpha.vsnap("mount", "lab", self.point)
        self.mentions(self.alpha.vsnap("host", "invite", "lab", code=1).err, "not shared", "--listen")
        self.alpha.vsnap("umount", "lab")
        self.share()
        self.join()
        self.alpha.vsnap("umount", "lab")
        listed = self.alpha.json("host", "list", "lab")
        self.assertIsNone(listed["epoch"])
        self.assertEqual(listed["hosts"][0]["state"], "away")
        self.alpha.vsnap("host", "revoke", "-y", "lab", "beta")
        self.share()
        self.assertEqual(self.hosts(), {})

    def test_a_guest_opens_no_member_by_itself(self):
        self.share()
        self.join(None, "--member", self.member)
        self.beta.vsnap("pool", "attach", self.member, code=None)
        for command in (("ls", "lab"), ("check", "lab")):
            self.mentions(self.beta.vsnap(*command, code=4).err, "a guest of it", self.alpha.address)
        self.beta.vsnap("pool", "detach", "lab")
        self.assertFalse((self.beta.state / "shared/lab.json").exists())


class Sessions(HostsTest):
    def setUp(self):
        super().setUp()
        self.share()
        self.join()

    def test_commands_of_another_host_are_carried_out_where_the_pool_is(self):
        link = self.link()
        self.assertEqual(link.ask("create vm1"), "ok")
        self.assertTrue((self.point / "vm1").exists())
        self.assertEqual(link.ask("snapshot vm1 monday"), "ok")
        self.assertTrue((self.point / "vm1@monday").exists())
        self.mentions(link.ask("create vm1"), "error", "exists")
        self.mentions(link.ask("shutdown"), "error", "only on the host that coordinates it")
        self.assertTrue(os.path.ismount(self.point))
        generation = self.alpha.json("pool", "status", "lab")["pool"]["generation"]
        link.waits_for(f"generation {generation}")

    def test_a_daemon_that_is_killed_comes_back_with_a_higher_epoch_and_hosts_go_on(self):
        link = self.link()
        epoch = self.alpha.json("host", "list", "lab")["epoch"]
        before = len(link.lines)
        os.kill(self.alpha.json("pool", "status", "lab")["pool"]["pid"], signal.SIGKILL)
        began = link.waits_for("began", before).split()
        self.assertGreater(int(began[1]), epoch)
        self.assertEqual(self.alpha.json("host", "list", "lab")["epoch"], int(began[1]))
        self.assertEqual(link.ask("create vm1"), "ok")

    def test_an_upgrade_keeps_the_pool_shared(self):
        link = self.link()
        before = len(link.lines)
        self.alpha.vsnap("upgrade", "lab")
        link.waits_for("began", before)
        self.assertEqual(self.state_of("beta"), "live")
        listed = self.alpha.json("host", "list", "lab")
        self.assertEqual(listed["listen"], f"tcp://{self.alpha.address}:{PORT}")
        self.assertEqual(listed["lease"], LEASE_S)

    def test_without_a_coordinator_a_host_stops_in_time(self):
        link = self.link()
        pid = self.alpha.json("pool", "status", "lab")["pool"]["pid"]
        support.kill_with_keeper(pid)
        self.lab.run("umount", "-l", self.point, code=None)
        link.waits_for("phase no-new-io")
        link.waits_for("phase draining")
        link.waits_for("lost")
        link.waits_for("phase away")
        before = len(link.lines)
        self.share()
        self.assertTrue(link.waits_for("began", before).endswith("new"))

    def test_a_host_that_is_cut_off_loses_its_session_and_gets_another(self):
        link = self.link()
        session = self.hosts()["beta"]["session"]
        self.switch.ip("link", "set", "beta", "down")
        support.wait_until(lambda: self.state_of("beta") == "lost", what="beta lost")
        link.waits_for("lost")
        before = len(link.lines)
        self.switch.ip("link", "set", "beta", "up")
        link.waits_for("began", before)
        self.assertNotEqual(self.hosts()["beta"]["session"], session)

    def test_a_host_that_was_stopped_comes_back_without_what_it_had(self):
        link = self.link()
        link.kill(signal.SIGSTOP)
        support.wait_until(lambda: self.state_of("beta") == "lost", what="beta lost")
        before = len(link.lines)
        link.kill(signal.SIGCONT)
        link.waits_for("lost", before)
        self.assertTrue(link.waits_for("began", before).endswith("new"))

    def test_a_second_process_of_a_host_takes_the_place_of_the_first(self):
        first = self.link()
        second = self.link()
        first.waits_for("ended superseded")
        self.assertEqual(self.state_of("beta"), "live")
        self.assertEqual(second.ask("create vm1"), "ok")


if __name__ == "__main__":
    support.main()

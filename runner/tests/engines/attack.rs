//! Attacks by root in an engine, through the engine's own Docker API: what a job can do, and then some. Every attempt
//! is harmless where it succeeds (it writes back what it read), so that the same suite can be run against the
//! `container` wall, to say what that wall does not hold.

use crate::yard::{Yard, traces_of};
use crate::{NOTHING, build, keep};
use slipway_runner::engine::{Choice, Ending, Lent, Limits};
use slipway_runner::layers::MOUNT;
use slipway_spec::ids::ProjectId;
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

/// What root tries in `docker run --privileged --pid host -v /:/host`; an attempt that ends well has broken out.
const ATTEMPTS: &[(&str, &str)] = &[
    ("remount the layers writable", "mount -o remount,rw,bind /host$LAYERS && touch /host$LAYERS/planted"),
    ("remount the layers writable as a filesystem", "mount -o remount,rw /host$LAYERS && touch /host$LAYERS/planted"),
    ("write among the layers", "touch /host$LAYERS/planted"),
    ("write into a layer", "f=$(find /host$LAYERS/ -type f | head -n 1); test -n \"$f\" && echo x >> \"$f\""),
    (
        "delete layers",
        "f=$(find /host$LAYERS/ -type f | head -n 1); test -n \"$f\" && rm -f \"$f\" && ! test -e \"$f\"",
    ),
    ("unmount what lies over the layers", "umount /host$LAYERS && test -n \"$(ls /host$LAYERS)\""),
    (
        "make the node's disk a device file and read it",
        "mknod /tmp/disk b $DISK && head -c 512 /tmp/disk | wc -c | grep -q 512",
    ),
    (
        "make /dev/kmsg a device file and read it",
        "mknod /tmp/kmsg c 1 11 && timeout 1 head -c 1 /tmp/kmsg | wc -c | grep -q 1",
    ),
    ("make /dev/mem a device file and open it", "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem >/dev/null"),
    (
        "allow itself devices",
        "g=$(find /host/sys/fs/cgroup -name devices.allow | head -n 1); test -n \"$g\" && echo 'a *:* rwm' > \"$g\"",
    ),
    ("lift its memory limit", "g=/host/sys/fs/cgroup/memory/memory.limit_in_bytes; v=$(cat $g) && echo $v > $g"),
    ("lift its limit of processes", "g=/host/sys/fs/cgroup/pids/pids.max; v=$(cat $g) && echo $v > $g"),
    (
        "write a release agent",
        "a=$(find /host/sys/fs/cgroup -name release_agent | head -n 1); test -n \"$a\" && v=$(cat $a) && echo \"$v\" > $a",
    ),
    (
        "mount control groups anew and write a release agent",
        "mkdir -p /tmp/g; mount -t cgroup -o memory none /tmp/g && v=$(cat /tmp/g/release_agent) && echo \"$v\" > /tmp/g/release_agent",
    ),
    (
        "see the control groups of others",
        "mkdir -p /tmp/h; mount -t cgroup -o pids none /tmp/h && test -d /tmp/h/slipway",
    ),
    (
        "write core_pattern",
        "v=$(cat /host/proc/sys/kernel/core_pattern) && echo \"$v\" > /host/proc/sys/kernel/core_pattern",
    ),
    ("write modprobe", "v=$(cat /host/proc/sys/kernel/modprobe) && echo \"$v\" > /host/proc/sys/kernel/modprobe"),
    ("write vm.swappiness", "v=$(cat /host/proc/sys/vm/swappiness) && echo \"$v\" > /host/proc/sys/vm/swappiness"),
    ("pull the system request trigger", "echo h > /host/proc/sysrq-trigger"),
    (
        "write to the disk's queue",
        "q=$(ls -d /host/sys/block/*/queue/nr_requests | head -n 1); v=$(cat $q) && echo $v > $q",
    ),
    ("see the node's processes", "grep -qa \"$RUNNER\" /host/proc/[0-9]*/cmdline"),
    ("find the node's files", "find /host -xdev -name $MARKER_NODE 2>/dev/null | grep -q ."),
    ("find another project's layers", "find / -name marker-of-project-2 2>/dev/null | grep -q ."),
    ("find another engine's data", "find / -name marker-of-engine-b 2>/dev/null | grep -q ."),
    ("reach the node's Docker at the gateway", "nc -w 1 $GATEWAY 2375 </dev/null || nc -w 1 $GATEWAY 2376 </dev/null"),
];

/// Kernel calls, by Perl of the Debian image: number and arguments of x86-64; each must fail.
const CALLS: &[(&str, &str)] = &[
    (
        "open the node's root by handle",
        "my $h = pack('Ii x120', 120, 0); my $m = pack('i', 0);
        syscall(303, -100, my $p = '/host/etc/hostname', $h, $m, 0);
        my $root = pack('Ii LL x112', 8, 1, 2, 0); open(my $d, '<', '/host/etc/hostname');
        syscall(304, fileno($d), $root, 0) >= 0",
    ),
    ("join another keyring", "syscall(250, 1, 0) >= 0"),
    ("set up an io_uring", "my $b = pack('x120'); syscall(425, 4, $b) >= 0"),
    ("load a BPF program", "my $b = pack('x120'); syscall(321, 0, $b, 120) >= 0"),
    ("open performance events of the node", "my $b = pack('LL x112', 1, 112); syscall(298, $b, -1, 0, -1, 0) >= 0"),
    ("load a module", "syscall(175, 0, 0, my $e = '') >= 0 || $!{ENOEXEC} || $!{EFAULT}"),
    ("read the kernel's log", "my $b = 'x' x 128; syscall(103, 3, $b, 128) > 0"),
    // adjtimex with ADJ_TICK and the tick it has: the same clock after as before.
    (
        "adjust the clock",
        "my $b = pack('x208'); syscall(159, $b); substr($b, 0, 4) = pack('L', 0x4000); syscall(159, $b) >= 0",
    ),
];

/// Runs every attempt in the engine; the names of those that got through.
fn run_all(yard: &Yard, lent: &Lent, marker: &str) -> BTreeSet<&'static str> {
    let disk = std::fs::metadata(yard.folder()).unwrap().dev();
    let mut script = String::from(
        "try() { if sh -c \"$2\" >/dev/null 2>&1; then echo \"broke: $1\"; else echo \"held: $1\"; fi; }\n",
    );
    for (name, attempt) in ATTEMPTS {
        let quoted = [name, attempt].map(|text| text.replace('\'', "'\\''"));
        script.push_str(&format!("try '{}' '{}'\n", quoted[0], quoted[1]));
    }
    // A pattern that does not match itself in the command line of the one who looks.
    let runner = std::env::current_exe().unwrap();
    let runner = runner.file_name().unwrap().to_str().unwrap();
    let runner = format!("[{}]{}", &runner[..1], &runner[1..]);
    let environment = format!(
        "-e 'RUNNER={runner}' -e LAYERS={MOUNT} -e 'DISK={} {}' -e MARKER_NODE={marker} -e GATEWAY={}",
        nix::sys::stat::major(disk),
        nix::sys::stat::minor(disk),
        yard.network.gateway()
    );
    let privileged = format!("docker run --rm --privileged --pid host -v /:/host {environment}");
    let mut said = yard.sh(lent, &format!("cat > /s <<'END'\n{script}\nEND\n{privileged} -i alpine sh < /s"));
    let mut calls = String::from("use Errno;\n");
    for (name, call) in CALLS {
        calls.push_str(&format!("print((eval {{ {call} }}) ? 'broke' : 'held', \": {name}\\n\");\n"));
    }
    said.push_str(
        &yard.sh(lent, &format!("cat > /s <<'END'\n{calls}\nEND\n{privileged} -i debian:bookworm-slim perl - < /s")),
    );
    let mut broke = BTreeSet::new();
    for (name, _) in ATTEMPTS.iter().chain(CALLS) {
        if said.lines().any(|line| line == format!("broke: {name}")) {
            broke.insert(*name);
        } else {
            assert!(said.lines().any(|line| line == format!("held: {name}")), "{name} was not tried:\n{said}");
        }
    }
    broke
}

/// A warm engine of project 1 beside a running and a promoted one of project 2, and the attacks run in it.
async fn attacked(choice: Choice) -> BTreeSet<&'static str> {
    let yard = Yard::new(choice).await;
    let marker = format!("marker-of-the-node-{}", std::process::id());
    std::fs::write(yard.folder().join(&marker), "x").unwrap();
    let mut foreign = yard.request(1);
    foreign.project = ProjectId(2);
    let other = yard.lender.lend(foreign).await.unwrap();
    yard.sh(&other, &build("x", "FROM alpine:latest\\nRUN touch /marker-of-project-2\\n"));
    keep(other).await;
    let first = yard.lend(2).await;
    yard.sh(&first, &build("x", "FROM alpine:latest\\nRUN touch /a\\n"));
    keep(first).await;

    let (a, b) = tokio::join!(yard.lend(3), yard.lend(4));
    assert!(a.generation.is_some(), "there must be layers to attack");
    yard.sh(&b, "docker run --name bee alpine touch /marker-of-engine-b");
    let before = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let broke = run_all(&yard, &a, &marker);
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
    for closed in [yard.folder().join("lent"), yard.folder().join("store")] {
        let mode = std::fs::metadata(&closed).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "files an engine planted can be reached: {}", closed.display());
    }
    let (attacked, bystander) = (a.id.clone(), b.id.clone());
    tokio::join!(a.give_back(Ending::Discard), keep(b));
    let verified = yard.store.verify().unwrap();
    assert!(verified.is_sound(), "{:?}", verified.faults);
    for id in [attacked, bystander] {
        assert_eq!(traces_of(&id), NOTHING);
    }
    broke
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_gets_through_the_userns_wall() {
    let broke = attacked(Choice::Userns).await;
    assert_eq!(broke, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn container_wall_holds_the_layers_and_is_listed_for_what_it_does_not_hold() {
    let broke = attacked(Choice::Container).await;
    eprintln!("the container wall does not hold against: {broke:#?}");
    let layers = ATTEMPTS.iter().filter(|(name, _)| name.contains("layer")).map(|(name, _)| *name);
    for name in layers {
        assert!(!broke.contains(name), "{name}");
    }
    // If this fails the wall became better than we say: change what docs/design/engine.md says of it.
    for known in ["write core_pattern", "see the control groups of others"] {
        assert!(broke.contains(known), "{known} in {broke:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_at_the_engines_limits() {
    const MEMORY: u64 = 400 << 20;
    const PIDS: u64 = 200;
    let limits = Limits { memory_bytes: Some(MEMORY), cpus: Some(1.0), pids: Some(PIDS) };
    let yard = Yard::with(Choice::Userns, limits).await;
    let lent = yard.lend(1).await;
    let forked = yard.try_sh(
        &lent,
        "docker run --rm alpine sh -c 'n=0; while [ $n -lt 1000 ]; do sleep 20 & n=$((n+1)); done' 2>&1",
    );
    assert!(forked.text.contains("fork") || !forked.ok, "{}", forked.text);
    yard.try_sh(
        &lent,
        "docker run --rm --privileged alpine sh -c 'dd if=/dev/zero of=/dev/shm/x bs=1M count=60; tail /dev/zero'",
    );
    let usage = lent.usage();
    // The kernel charges a page or two of its own over the limit.
    assert!(usage.memory_peak_bytes.is_some_and(|peak| peak <= MEMORY + (1 << 20)), "{usage:?}");
    assert!(usage.cpu_seconds.is_some_and(|s| s > 0.0), "{usage:?}");
    let id = lent.id.clone();
    lent.give_back(Ending::Discard).await;
    assert_eq!(traces_of(&id), NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn door_does_not_follow_an_engine_out() {
    let yard = Yard::new(Choice::Userns).await;
    // A socket of the node that anybody may open, and an engine whose own socket is a link to it.
    let bait = yard.folder().join("bait.sock");
    let listener = UnixListener::bind(&bait).unwrap();
    std::fs::set_permissions(&bait, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::set_permissions(yard.folder(), std::fs::Permissions::from_mode(0o755)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let lent = yard.lend(1).await;
    let links = [
        bait.display().to_string(),
        format!("/proc/1/root{}", bait.display()),
        "/proc/self/root/run/docker.sock".into(),
    ];
    for link in links {
        yard.try_sh(
            &lent,
            &format!(
                "docker run --rm --privileged -v /run:/r alpine sh -c '
                     [ -e /r/own.sock ] || mv /r/docker.sock /r/own.sock; rm -f /r/docker.sock; ln -s {link} /r/docker.sock'"
            ),
        );
        let answer = yard.try_sh(&lent, "curl -fsS -m 5 http://docker:2375/_ping && echo answered");
        assert!(!answer.text.contains("answered"), "{link}: {}", answer.text);
        assert!(listener.accept().is_err(), "the door opened {link} of the node");
        // Back, for the next one.
        let pid = lent.init_pid().unwrap();
        let run = format!("/proc/{pid}/root/run");
        std::fs::rename(format!("{run}/own.sock"), format!("{run}/docker.sock")).unwrap();
        assert!(yard.sh(&lent, "curl -fsS http://docker:2375/_ping").contains("OK"));
    }
    lent.give_back(Ending::Discard).await;
}

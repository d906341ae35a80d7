//! The OCI bundle `runc` starts an engine from. Pure.

use super::spaces::IDS;
use serde_json::{Value, json};
use std::path::Path;

/// Docker's default set, and the two that a Docker daemon cannot do without. All of them only inside.
pub(super) const CAPABILITIES: [&str; 16] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
    "CAP_SYS_ADMIN",
    "CAP_NET_ADMIN",
];

/// Kernel doors that no build needs and that were the way out more than once. `ENOSYS` makes programs fall back.
const CLOSED: [&str; 17] = [
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "open_by_handle_at",
    "swapon",
    "swapoff",
];

/// What the bundle depends on.
pub(super) struct Facts<'a> {
    /// Its name, also its host name.
    pub(super) id: &'a str,
    /// First id outside.
    pub(super) base: u32,
    /// Its root filesystem.
    pub(super) root: &'a Path,
    /// Its data directory, seen through its ids.
    pub(super) data: &'a Path,
    /// The layers it may see, and where.
    pub(super) layers: Option<(&'a Path, &'a str)>,
    /// Paths of its user and network namespaces.
    pub(super) spaces: (&'a Path, &'a Path),
    /// dockerd's flags.
    pub(super) flags: &'a [String],
    /// `KEY=value`.
    pub(super) environment: Vec<String>,
    /// Whether the host has only version 2 control groups.
    pub(super) unified: bool,
}

/// `config.json` of the bundle.
pub(super) fn config(facts: &Facts<'_>) -> Value {
    let ids = json!([{ "containerID": 0, "hostID": facts.base, "size": IDS }]);
    let mut args = vec!["/bin/sh".to_owned(), format!("{}/init", super::shape::ETC)];
    args.extend_from_slice(facts.flags);
    let mut mounts = vec![
        mount("proc", "/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("devpts", "/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        mount("shm", "/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("mqueue", "/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "/sys", "sysfs", &["nosuid", "noexec", "nodev"]),
        mount("cgroup", "/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "rw"]),
        mount("tmpfs", "/run", "tmpfs", &["nosuid", "nodev", "mode=755", "size=256m"]),
        mount(&facts.data.to_string_lossy(), "/var/lib/docker", "bind", &["bind", "rw"]),
    ];
    if let Some((source, target)) = facts.layers {
        mounts.push(mount(&source.to_string_lossy(), target, "bind", &["bind", "ro", "nodev"]));
    }
    let mut namespaces =
        vec![json!({ "type": "user", "path": facts.spaces.0 }), json!({ "type": "network", "path": facts.spaces.1 })];
    namespaces.extend(["pid", "mount", "ipc", "uts", "cgroup"].map(|kind| json!({ "type": kind })));
    json!({
        "ociVersion": "1.0.2",
        "hostname": facts.id,
        "root": { "path": facts.root, "readonly": false },
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "cwd": "/",
            "args": args,
            "env": facts.environment,
            "noNewPrivileges": false,
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
        },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": format!("/{}/{}", super::cgroup::TOP, facts.id),
            "resources": resources(facts.unified),
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": architectures(),
                "syscalls": [{ "names": CLOSED, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }],
            },
            "maskedPaths": [],
            "readonlyPaths": [],
        },
    })
}

fn mount(source: &str, target: &str, kind: &str, options: &[&str]) -> Value {
    json!({ "source": source, "destination": target, "type": kind, "options": options })
}

/// Devices are allowed one by one; limits are set on the control groups beforehand.
fn resources(unified: bool) -> Value {
    let device = |kind: &str, major: u32, minor: Option<u32>| json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm" });
    let mut devices = vec![json!({ "allow": false, "access": "rwm" })];
    // null, zero, full, random, urandom, tty, console, ptmx, terminals
    for (major, minor) in
        [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(1)), (5, Some(2))]
    {
        devices.push(device("c", major, minor));
    }
    devices.push(device("c", 136, None));
    let mut resources = json!({ "devices": devices });
    if unified {
        resources["unified"] = json!({});
    }
    resources
}

fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_keeps_every_namespace_apart_and_gives_no_more_than_it_says() {
        let spaces = (Path::new("/u"), Path::new("/n"));
        let facts = Facts {
            id: "e1",
            base: 70_000,
            root: Path::new("/r"),
            data: Path::new("/d"),
            layers: Some((Path::new("/l"), "/var/lib/slipway/layers")),
            spaces,
            flags: &["--mtu=1".into()],
            environment: vec!["A=1".into()],
            unified: false,
        };
        let config = config(&facts);
        let kinds: Vec<_> =
            config["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["user", "network", "pid", "mount", "ipc", "uts", "cgroup"]);
        assert_eq!(config["linux"]["uidMappings"][0]["hostID"], 70_000);
        let bounding = config["process"]["capabilities"]["bounding"].as_array().unwrap();
        for dangerous in ["CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_SYS_BOOT"] {
            assert!(!bounding.iter().any(|c| c == dangerous), "{dangerous}");
        }
        let layers = config["mounts"].as_array().unwrap().iter().find(|m| m["source"] == "/l").unwrap();
        assert!(layers["options"].as_array().unwrap().iter().any(|o| o == "ro"));
        assert_eq!(config["linux"]["resources"]["devices"][0]["allow"], false);
    }
}

//! What distinguishes engines beyond their lineage: the daemon's flags, its environment, its files. Pure.

use super::error::EngineError;
use super::lend::NetworkFacts;
use std::net::Ipv4Addr;

/// How an engine is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// dockerd's flags.
    pub(super) flags: Vec<String>,
    /// Environment of containerd and dockerd, over the image's.
    pub(super) environment: Vec<(String, String)>,
    /// What was asked for and is not done, for the job's log.
    pub(super) notes: Vec<String>,
}

/// What the node gives to every engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// Mirrors of Docker Hub.
    pub mirrors: Vec<String>,
    /// Registries without TLS, `host:port`.
    pub insecure: Vec<String>,
}

/// Where the engine keeps its own files, inside.
pub(super) const ETC: &str = "/etc/slipway";

/// Flags that are ours to give: where it listens and stores. True when a value follows.
const OURS: [(&str, bool); 18] = [
    ("-H", true),
    ("--host", true),
    ("--tls", false),
    ("--tlsverify", false),
    ("--tlscacert", true),
    ("--tlscert", true),
    ("--tlskey", true),
    ("-s", true),
    ("--storage-driver", true),
    ("--storage-opt", true),
    ("--data-root", true),
    ("-g", true),
    ("--graph", true),
    ("--exec-root", true),
    ("--containerd", true),
    ("--pidfile", true),
    ("--config-file", true),
    ("--userns-remap", true),
];

impl Shape {
    /// For a service with `command` and `environment`.
    pub(super) fn new(
        command: Option<&[String]>,
        environment: &[(String, String)],
        registries: &Registries,
        network: &NetworkFacts,
        trusts_more: bool,
    ) -> Result<Shape, EngineError> {
        let mut shape = Shape::default();
        let pool = pool(network);
        shape.flags = [
            format!("--config-file={ETC}/daemon.json"),
            "--containerd=/run/containerd/containerd.sock".into(),
            "--data-root=/var/lib/docker".into(),
            "--exec-root=/run/docker".into(),
            "--pidfile=/run/slipway/docker.pid".into(),
            "--host=unix:///var/run/docker.sock".into(),
            "--host=tcp://0.0.0.0:2376".into(),
            "--tlsverify".into(),
            format!("--tlscacert={ETC}/tls/ca.pem"),
            format!("--tlscert={ETC}/tls/cert.pem"),
            format!("--tlskey={ETC}/tls/key.pem"),
            // Networks of the job's containers: none of the job's own network, which is on the engine's other side.
            format!("--bip=10.{pool}.0.1/24"),
            format!("--default-address-pool=base=10.{pool}.0.0/16,size=24"),
            format!("--mtu={}", network.mtu),
        ]
        .into();
        for mirror in &registries.mirrors {
            shape.flags.push(format!("--registry-mirror={}", reachable(mirror, network.gateway)));
            if let Some(host) = mirror.strip_prefix("http://") {
                let host = reachable(host.trim_end_matches('/'), network.gateway);
                shape.flags.push(format!("--insecure-registry={host}"));
            }
        }
        for registry in &registries.insecure {
            shape.flags.push(format!("--insecure-registry={}", reachable(registry, network.gateway)));
        }
        if let Some(command) = command {
            shape.honour(command)?;
        }
        shape.environment = environment
            .iter()
            .filter(|(k, v)| is_environment(k) && k != DRIVER && !v.contains('\0'))
            .cloned()
            .collect();
        if trusts_more {
            shape.environment.push(("SSL_CERT_FILE".into(), format!("{ETC}/ca-certificates.crt")));
        }
        if let Some((_, driver)) = environment.iter().rev().find(|(k, _)| k == DRIVER)
            && driver != "overlay2"
            && !driver.is_empty()
        {
            shape.notes.push(format!("DOCKER_DRIVER={driver} is not used: layers are kept by overlayfs"));
        }
        Ok(shape)
    }

    /// Takes the flags out of a service's command; the last of a flag given twice wins, so they come after ours.
    fn honour(&mut self, command: &[String]) -> Result<(), EngineError> {
        let mut rest = command;
        while let [first, more @ ..] = rest
            && matches!(first.rsplit('/').next(), Some("dockerd-entrypoint.sh" | "dockerd" | "docker-init" | "--"))
        {
            rest = more;
        }
        let mut rest = rest.iter().peekable();
        while let Some(argument) = rest.next() {
            if !argument.starts_with('-') {
                return Err(EngineError::Command {
                    command: command.to_vec(),
                    why: "an engine is started by the runner: give flags of dockerd only, such as [\"--mtu=1400\"]",
                });
            }
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            // A value may also be the next argument; no flag of dockerd's has a value that begins with a hyphen.
            let takes_next = value.is_none() && rest.peek().is_some_and(|next| !next.starts_with('-'));
            let ours = OURS.iter().find(|(ours, _)| *ours == name);
            let next = match ours {
                Some((_, false)) => None,
                _ if takes_next => rest.next(),
                _ => None,
            };
            if ours.is_some() {
                if !matches!(name, "-H" | "--host" | "--tls" | "--tlsverify") {
                    self.notes.push(format!("{name} of the service's command is not used: it is the runner's to give"));
                }
                continue;
            }
            self.flags.push(argument.clone());
            self.flags.extend(next.cloned());
        }
        Ok(())
    }
}

/// dockerd reads it too, and takes it over any flag. Layers are kept by containerd's overlayfs whatever it says: in a
/// user namespace the overlay2 driver is six times slower (1.1 s against 0.18 s for a build of one line).
const DRIVER: &str = "DOCKER_DRIVER";

/// A name that a shell would take for a variable.
fn is_environment(key: &str) -> bool {
    !key.is_empty()
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !key.as_bytes()[0].is_ascii_digit()
}

/// The second number of a 10.x.0.0/16 that the job's network is not in.
fn pool(network: &NetworkFacts) -> u8 {
    let [first, second, ..] = network.address.octets();
    // 10.0 and 10.1 are what people have at home and in their clouds.
    *[199, 198, 197].iter().find(|n| !(first == 10 && second == **n)).unwrap_or(&199)
}

/// An address that means the node itself, as the engine reaches it.
fn reachable(text: &str, gateway: Ipv4Addr) -> String {
    for node in ["127.0.0.1", "localhost", "[::1]"] {
        for prefix in ["http://", "https://", ""] {
            if let Some(rest) = text.strip_prefix(prefix).and_then(|t| t.strip_prefix(node))
                && (rest.is_empty() || rest.starts_with([':', '/']))
            {
                return format!("{prefix}{gateway}{rest}");
            }
        }
    }
    text.to_owned()
}

/// dockerd's configuration file: what has no flag.
pub(super) const DAEMON_JSON: &str = r#"{"features":{"containerd-snapshotter":true}}
"#;

/// containerd's configuration. Everything it keeps is beneath the engine's one data directory. It collects garbage
/// only when asked: left to itself it took layers from running builds (moby/buildkit 6521).
pub(super) const CONTAINERD_TOML: &str = r#"version = 2
root = "/var/lib/docker/containerd/daemon"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.02
  deletion_threshold = 0
  mutation_threshold = 1000000000
  schedule_delay = "0s"
  startup_delay = "8760h"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> NetworkFacts {
        NetworkFacts {
            id: "n".into(),
            bridge: "br0".into(),
            address: Ipv4Addr::new(10, 213, 3, 201),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 213, 3, 1),
            mtu: 1450,
        }
    }

    fn shape(command: &[&str]) -> Result<Shape, EngineError> {
        let command: Vec<String> = command.iter().map(|s| (*s).to_owned()).collect();
        Shape::new(Some(&command), &[], &Registries::default(), &network(), false)
    }

    #[test]
    fn command_flags_are_kept_but_those_that_are_ours() {
        let plain = shape(&[]).unwrap().flags;
        for (command, kept) in [
            (vec!["--mtu=1400"], vec!["--mtu=1400"]),
            (vec!["dockerd", "--mtu", "1400"], vec!["--mtu", "1400"]),
            (vec!["dockerd-entrypoint.sh", "dockerd", "--debug"], vec!["--debug"]),
            (vec!["--host=tcp://0.0.0.0:2375", "--tls=false", "--debug"], vec!["--debug"]),
            (vec!["-H", "tcp://0.0.0.0:2375", "--tls", "--debug"], vec!["--debug"]),
            (vec!["--registry-mirror", "http://m:5000", "-s", "vfs"], vec!["--registry-mirror", "http://m:5000"]),
        ] {
            assert_eq!(shape(&command).unwrap().flags[plain.len()..], kept, "{command:?}");
        }
        assert_eq!(shape(&["-s", "vfs"]).unwrap().notes.len(), 1);
    }

    #[test]
    fn command_that_is_another_program_is_refused() {
        let refused = shape(&["sh", "-c", "dockerd --debug"]).unwrap_err().to_string();
        assert!(refused.contains("flags of dockerd only"), "{refused}");
    }

    #[test]
    fn node_itself_is_reached_by_the_gateway() {
        let registries = Registries {
            mirrors: vec!["http://127.0.0.1:5000".into(), "https://mirror.example".into()],
            insecure: vec!["localhost:5001".into(), "localhost.example:1".into()],
        };
        let flags = Shape::new(None, &[], &registries, &network(), false).unwrap().flags;
        for expected in [
            "--registry-mirror=http://10.213.3.1:5000",
            "--insecure-registry=10.213.3.1:5000",
            "--registry-mirror=https://mirror.example",
            "--insecure-registry=10.213.3.1:5001",
            "--insecure-registry=localhost.example:1",
        ] {
            assert!(flags.iter().any(|f| f == expected), "{expected} in {flags:?}");
        }
    }

    #[test]
    fn engine_networks_stay_clear_of_the_jobs() {
        let mut facts = network();
        facts.address = Ipv4Addr::new(10, 199, 0, 201);
        let flags = Shape::new(None, &[], &Registries::default(), &facts, false).unwrap().flags;
        assert!(flags.iter().any(|f| f == "--bip=10.198.0.1/24"), "{flags:?}");
    }

    #[test]
    fn environment_keeps_what_a_shell_would_and_other_drivers_are_noted() {
        let environment =
            [("A".to_owned(), "1".to_owned()), ("B-C".into(), "2".into()), ("DOCKER_DRIVER".into(), "vfs".into())];
        let shape = Shape::new(None, &environment, &Registries::default(), &network(), true).unwrap();
        let keys: Vec<_> = shape.environment.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys, ["A", "SSL_CERT_FILE"]);
        assert_eq!(shape.notes.len(), 1);
    }
}

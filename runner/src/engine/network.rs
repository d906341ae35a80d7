//! An engine's place in the job's network: a veth whose other end joins the bridge of a network that Docker made and
//! left room in.

use super::error::{EngineError, Tried};
use super::lend::NetworkFacts;
use super::spaces::Spaces;
use nix::sched::CloneFlags;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// Wires the engine up: after this its address answers pings of the job.
///
/// The veth needs no removal: it goes with the network namespace.
pub(super) fn wire(spaces: &Spaces, facts: &NetworkFacts, id: &str) -> Result<(), EngineError> {
    let host_end = host_end(id);
    let NetworkFacts { bridge, address, prefix, gateway, mtu, .. } = facts;
    let pid = spaces.pid();
    ip(&format!(
        "link add {host_end} mtu {mtu} type veth peer name eth0 mtu {mtu} address {} netns {pid}\n\
         link set {host_end} master {bridge} up\n",
        hardware_address(*address)
    ))?;
    let path = spaces.net_path();
    let net = File::open(&path).tried("open", &path)?;
    // `ip` inherits the namespace of the thread that starts it; the thread is good for nothing else afterwards.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::setns(&net, CloneFlags::CLONE_NEWNET).tried("enter", &path)?;
                ip(&format!(
                    "link set lo up\nlink set eth0 up\naddr add {address}/{prefix} dev eth0\n\
                     route add default via {gateway}\n"
                ))
            })
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")).tried("enter", &path))
    })
}

/// One hardware address for each address, as Docker does it. An engine that takes the place of one that did not start
/// would else not be heard until the host has forgotten the first one's: a minute, when the bridge never went down.
fn hardware_address(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The veth's name on the host; a name of an interface has at most 15 bytes.
fn host_end(id: &str) -> String {
    format!("sw{:08x}e", crc32fast::hash(id.as_bytes()))
}

fn ip(batch: &str) -> Result<(), EngineError> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .tried("start", "ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        // When it ends early its words are in stderr.
        let _ = stdin.write_all(batch.as_bytes());
    }
    let output = child.wait_with_output().tried("wait for", "ip")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).chars().take(2000).collect();
    Err(EngineError::Program { doing: "wire the engine to the job's network", program: "ip", said })
}

/// Name servers an engine can use: the node's own, without those on the node's loopback, which is not the engine's.
pub(super) fn resolv_conf() -> String {
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let usable: String =
            text.lines().filter(|line| !is_loopback_server(line)).map(|line| format!("{line}\n")).collect();
        if usable.lines().any(|line| line.trim_start().starts_with("nameserver")) {
            return usable;
        }
    }
    String::new()
}

fn is_loopback_server(line: &str) -> bool {
    line.trim_start()
        .strip_prefix("nameserver")
        .and_then(|rest| rest.trim().parse::<std::net::IpAddr>().ok())
        .is_some_and(|server| server.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_end_fits_an_interface_name() {
        assert!(host_end("j1234567-4294967295-a-very-long-name").len() <= 15);
    }

    #[test]
    fn hardware_address_follows_the_address() {
        assert_eq!(hardware_address(Ipv4Addr::new(10, 213, 0, 255)), "02:42:0a:d5:00:ff");
    }

    #[test]
    fn loopback_name_servers_are_not_the_engines() {
        assert!(is_loopback_server("nameserver 127.0.0.53"));
        assert!(is_loopback_server("nameserver ::1"));
        assert!(!is_loopback_server("nameserver 10.0.0.2"));
        assert!(!is_loopback_server("search example.org"));
    }
}

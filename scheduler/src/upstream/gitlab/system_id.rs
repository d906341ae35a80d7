//! The machine's identity: `.runner_system_id`, one a configuration folder, kept through restarts. Without it every
//! start would appear as a new machine in GitLab's pages.

use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

/// The file's name beside the configuration or state.
pub const FILE: &str = ".runner_system_id";

/// The identity cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the machine's identity in {path}: {source}; without it GitLab shows a new machine at each start")]
pub struct SystemIdError {
    /// Where.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// The identity kept in `folder`; made and written when missing or malformed.
///
/// # Errors
/// The file can neither be read nor written.
pub fn load(folder: &Path) -> Result<String, SystemIdError> {
    let path = folder.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if is_well_formed(text.trim()) => return Ok(text.trim().to_string()),
        Ok(_) => tracing::warn!(path = %path.display(), "the machine's identity is malformed and is made anew"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
        Err(source) => return Err(SystemIdError { path, source }),
    }
    let id = generate(machine_id().as_deref());
    super::spool::write_whole(&path, id.as_bytes()).map_err(|source| SystemIdError { path, source })?;
    Ok(id)
}

/// `s_` or `r_` and 12 letters or digits.
#[must_use]
pub fn is_well_formed(id: &str) -> bool {
    let Some(rest) = id.strip_prefix("s_").or_else(|| id.strip_prefix("r_")) else { return false };
    rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn machine_id() -> Option<String> {
    let text = std::fs::read_to_string("/etc/machine-id")
        .or_else(|_| std::fs::read_to_string("/var/lib/dbus/machine-id"))
        .ok()?;
    let text = text.trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// Of a machine id as the official runner does: `s_` and the first 12 hex digits of
/// HMAC-SHA256(machine id, `gitlab-runner`); without one `r_` and 12 random characters.
fn generate(machine_id: Option<&str>) -> String {
    match machine_id {
        Some(machine) => {
            let mac = hmac_sha256(machine.as_bytes(), b"gitlab-runner");
            let hex: String = mac.iter().map(|b| format!("{b:02x}")).collect();
            format!("s_{}", &hex[..12])
        }
        None => {
            const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
            let random = super::client::random::<12>();
            let text: String = random.iter().map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()] as char).collect();
            format!("r_{text}")
        }
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_of_rfc_4231_case_2_matches() {
        let mac = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        let hex: String = mac.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn generated_ids_are_well_formed() {
        for _ in 0..100 {
            assert!(is_well_formed(&generate(None)));
        }
        assert!(is_well_formed(&generate(Some("0123456789abcdef0123456789abcdef"))));
        assert_eq!(generate(Some("a")), generate(Some("a")));
        assert_ne!(generate(Some("a")), generate(Some("b")));
    }

    #[test]
    fn malformed_ids_are_told_apart() {
        for bad in ["", "s_", "s_12345678901", "s_1234567890123", "x_123456789012", "s_12345678901-", "123456789012"] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
